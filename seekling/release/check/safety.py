"""Whether opening the folder could run something or harm: pickles, code, links, programs, templates, headers that lie."""

import re
from collections.abc import Iterator
from typing import Any

from seekling.release.check.finding import FAIL, NOTE, PASS, Finding
from seekling.release.check.pickles import pickle_kind, unusual
from seekling.release.check.place import Entry, Place, Trouble, texts

_PROGRAMS = ((b"\x7fELF", "a Linux program or library"), (b"MZ", "a Windows program"), (b"\xcf\xfa\xed\xfe", "a macOS program"),
             (b"\xca\xfe\xba\xbe", "a Java class or macOS program"), (b"\x00asm", "a WebAssembly program"))  # fmt: skip
_CODE = (".py", ".so", ".dll", ".dylib", ".sh", ".bat", ".ps1", ".exe", ".jar", ".js", ".pyc", ".pyd", ".ipynb", ".whl")
_PICKLE_NAMES = (
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".pkl",
    ".pickle",
    ".joblib",
    ".dill",
    ".npy",
    ".npz",
    ".h5",
    ".keras",
    ".mlmodel",
)
_SECRETS = (
    (r"-----BEGIN (RSA |EC |OPENSSH |ENCRYPTED )?PRIVATE KEY-----", "a private key"),
    (r"\bhf_[A-Za-z0-9]{30,}\b", "a Hugging Face token"), (r"\bAKIA[0-9A-Z]{16}\b", "an AWS key"),
    (r"\bgh[pousr]_[A-Za-z0-9]{36,}\b", "a GitHub token"), (r"\bsk-[A-Za-z0-9_-]{32,}\b", "an API key"),
    (r"\bglpat-[A-Za-z0-9_-]{20,}\b", "a GitLab token"),
)  # fmt: skip
_TEXT = (
    ".md",
    ".txt",
    ".json",
    ".jsonl",
    ".yaml",
    ".yml",
    ".toml",
    ".py",
    ".cfg",
    ".ini",
    ".sh",
    ".jinja",
    ".env",
    ".lock",
    ".log",
)
TEMPLATE_LIMIT = 1 << 20
MOST_READ = 2000  # files whose first bytes are looked at
MOST_SCANNED = 400  # text files searched for secrets


def safety_findings(place: Place, config: dict[str, Any]) -> Iterator[Finding]:
    """Every danger; one "pass" line for each kind that was looked for and not found."""
    kinds = {
        "link": list(_links(place)),
        "pickle": list(_pickles(place)),
        "code": [*_remote_code(place, config), *_programs(place)],
        "template": list(_templates(place)),
        "secret": list(_secrets(place)),
    }
    good = {
        "link": "no symbolic links and no special files", "pickle": "no pickles, found by content and not by name",
        "code": "no remote code and no programs", "template": "chat templates hold nothing suspicious",
        "secret": "no keys or tokens in the text files",
    }  # fmt: skip
    for kind, found in kinds.items():
        yield from found
        if not any(f.verdict == FAIL for f in found) and not (kind == "template" and found):
            yield Finding(f"safety.{kind}", PASS, good[kind])


def _links(place: Place) -> Iterator[Finding]:
    blobs = place.root.parent.name == "snapshots"  # how the cache of the Hugging Face hub is made
    for entry in place.entries.values():
        if entry.kind == "link" and not (blobs and re.fullmatch(r"(\.\./)+blobs/[0-9a-f]{40,64}", entry.target or "")):
            text = f"{entry.path} is a link to {entry.target}; it was not followed"
            yield Finding("safety.link", FAIL, text, entry.path, remedy="put a copy of the file in its place")
        elif entry.kind == "special":
            yield Finding("safety.link", FAIL, f"{entry.path} is a device, pipe or socket", entry.path, remedy="remove it")


def _pickles(place: Place) -> Iterator[Finding]:
    for entry in _readable(place):
        try:
            found = pickle_kind(place, entry.path)
        except Trouble as trouble:
            if entry.path.endswith(_PICKLE_NAMES):
                yield Finding("safety.pickle", FAIL, str(trouble), entry.path)
            continue
        if found is None:
            continue
        kind, names = found
        odd = list(unusual(names))
        says = f"; it would import {', '.join(odd[:6])}" if odd else ""
        yield Finding(
            "safety.pickle", FAIL, f"{entry.path} is {kind}, which can run code when opened{says}", entry.path,
            remedy="publish safetensors instead",
        )  # fmt: skip
    for path in sorted(place.absent):
        if path.endswith(_PICKLE_NAMES[:8]):
            text = f"{path} is listed and by its name a pickle (not fetched)"
            yield Finding("safety.pickle", FAIL, text, path, remedy="publish safetensors instead")


def _remote_code(place: Place, config: dict[str, Any]) -> Iterator[Finding]:
    for path in ("config.json", "tokenizer_config.json", "generation_config.json", "preprocessor_config.json"):
        try:
            raw = config if path == "config.json" else place.mapping(path) if place.here(path) else {}
        except Trouble:
            continue
        mapped = raw.get("auto_map")
        if mapped:
            names = sorted(set(_strings(mapped)))[:6]
            text = f"{path} asks to run remote code (auto_map: {', '.join(names) or 'unnamed'})"
            yield Finding("safety.code", FAIL, text, path, remedy="remove auto_map, or offer a model type that libraries know")


def _programs(place: Place) -> Iterator[Finding]:
    for entry in _readable(place):
        head = place.head(entry.path, 8)
        for magic, what in _PROGRAMS:
            if head.startswith(magic) and not (magic == b"MZ" and entry.path.endswith(_TEXT)):
                yield Finding("safety.code", FAIL, f"{entry.path} is {what}", entry.path, remedy="publish source, not programs")
    code = [e.path for e in place.entries.values() if e.path.endswith(_CODE)]
    if code:
        shown = ", ".join(code[:4]) + (", …" if len(code) > 4 else "")
        yield Finding("safety.code", NOTE, f"{len(code)} files of code ({shown}): never run by this check", code[0])


def _templates(place: Place) -> Iterator[Finding]:
    from seekling.text.lint import lint_template

    for path, template in chat_templates(place):
        if template is None:
            yield Finding(
                "safety.template", FAIL, f"{path}: its chat template is longer than {TEMPLATE_LIMIT:,} characters", path
            )
            continue
        lines = tuple(lint_template(template))
        grave = [line for line in lines if "attributes" in line or "invisible" in line or "ignore" in line]
        if lines:
            text = f"{path}: its chat template has something to look at: {lines[0]}"
            yield Finding(
                "safety.template", FAIL if grave else NOTE, text, path, lines[1:12], "read the template before you use it"
            )


def chat_templates(place: Place) -> Iterator[tuple[str, str | None]]:
    """Every chat template with its file; None for one that is too long."""
    for path in place.matching(r"(.*/)?(chat_template[^/]*\.jinja|additional_chat_templates/.*\.jinja)"):
        if place.here(path):
            try:
                yield path, place.text(path, TEMPLATE_LIMIT)
            except Trouble:
                yield path, None
    for path in place.matching(r"(.*/)?(tokenizer_config|chat_template|processor_config)\.json"):
        try:
            raw = place.mapping(path) if place.here(path) else {}
        except Trouble:
            continue
        found = raw.get("chat_template")
        several = [t.get("template") for t in found if isinstance(t, dict)] if isinstance(found, list) else [found]
        for template in texts([t for t in several if isinstance(t, str)]):
            yield path, template if len(template) <= TEMPLATE_LIMIT else None
    for path in place.matching(r".*\.gguf"):
        inside = place.gguf(path).get("tokenizer.chat_template")
        if isinstance(inside, str):
            yield path, inside if len(inside) <= TEMPLATE_LIMIT else None


def _secrets(place: Place) -> Iterator[Finding]:
    small = [e for e in _readable(place) if e.path.endswith(_TEXT) and e.size <= 1 << 20][:MOST_SCANNED]
    for entry in small:
        try:
            text = place.text(entry.path, 1 << 20)
        except Trouble:
            continue
        for pattern, what in _SECRETS:
            found = re.search(pattern, text)
            if found:
                line = text.count("\n", 0, found.start()) + 1
                yield Finding(
                    "safety.secret", FAIL, f"{entry.path} line {line} holds what looks like {what}", entry.path,
                    remedy="revoke it and take it out of the history as well",
                )  # fmt: skip


def _readable(place: Place) -> list[Entry]:
    return [e for e in place.entries.values() if e.kind == "file" and e.path not in place.absent and e.size > 0][:MOST_READ]


def _strings(value: Any, depth: int = 0) -> list[str]:
    if isinstance(value, str):
        return [value]
    if depth > 8:
        return []
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _strings(item, depth + 1)]
