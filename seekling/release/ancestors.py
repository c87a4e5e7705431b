"""Models that a release descends from: bases, teachers and adapters of somebody else, with their licences."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.release.about import About
from seekling.release.layout import MANIFEST, read_manifest, sha256

LICENCE_FILES = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "LICENSE-MODEL", "LICENSE_MODEL", "license.txt")
WEIGHTS = (".safetensors", ".gguf")


@dataclass(frozen=True)
class Ancestor:
    """A model; ``licence`` an SPDX id, LicenseRef-…, or None where nothing states one; ``text`` the licence as it came."""

    name: str
    licence: str | None
    revision: str | None = None
    text: str | None = None
    fingerprint: str | None = None
    url: str | None = None
    flops: float | None = None
    hash: str | None = None
    parents: tuple["Ancestor", ...] = ()
    own: bool = False  # a run of this machine, whose own ancestors and sources are listed too

    def to_dict(self) -> dict[str, Any]:
        """As ``release.json`` has it; a text of its own is LICENSES/<licence>.txt there."""
        return {
            "name": self.name,
            "revision": self.revision,
            "licence": self.licence,
            "fingerprint": self.fingerprint,
            "licence_text": f"LICENSES/{self.licence}.txt" if self.licence else None,
            "url": self.url,
            "flops": self.flops,
            "hash": self.hash,
        }


def ancestor_of(name: str, path: Path | None, about: About) -> Ancestor:
    """What can be known of a model: from its own release, from how it was pulled, from its card and licence file, and from
    ``--about``, which wins.

    Args:
        path: where it lies, None where it is not here.
    """
    if Path(name).is_absolute() and name not in about.models:
        name = Path(name).name  # where it lies says nothing to others
    said = about.models.get(name, {})
    folder = path if path is None or path.is_dir() else path.parent
    found = _released(folder) if folder is not None else None
    if found is None:
        found = _looked_at(name, path, folder)
    licence = said.get("licence") or found.licence
    text = found.text
    if said.get("licence_file"):
        text = (about.folder / said["licence_file"]).read_text("utf-8")
    return Ancestor(
        name=found.name,
        licence=spdx(licence, found.name) if licence else None,
        revision=found.revision,
        text=text,
        fingerprint=found.fingerprint,
        url=said.get("url") or found.url,
        flops=said.get("flops") or found.flops,
        hash=found.hash,
        parents=found.parents,
    )


def _released(folder: Path) -> Ancestor | None:
    """From a release's own manifest."""
    if not (folder / MANIFEST).is_file():
        return None
    manifest = read_manifest(folder)
    above = manifest.get("provenance", {})
    parents = tuple(
        Ancestor(
            **{k: v for k, v in row.items() if k in ("name", "licence", "revision", "fingerprint", "url", "flops", "hash")}
        )
        for row in [*above.get("base_models", []), *above.get("teachers", [])]
    )
    text = folder / "LICENSE"
    return Ancestor(
        name=str(manifest.get("name")),
        licence=manifest.get("licences", {}).get("weights"),
        revision=manifest.get("version"),
        text=text.read_text("utf-8") if text.is_file() else None,
        flops=manifest.get("compute", {}).get("flops"),
        hash=sha256(folder / MANIFEST),
        parents=parents,
    )


def _looked_at(name: str, path: Path | None, folder: Path | None) -> Ancestor:
    from seekling.hub.names import read_record

    if path is None or folder is None:
        return Ancestor(name, None)
    record = read_record(folder) or {}
    card = front_matter(folder / "README.md")
    licence = record.get("licence") or card.get("license")
    if licence == "other":
        licence = card.get("license_name") or licence
    weights = [path] if path.is_file() else sorted(p for p in folder.iterdir() if p.suffix in WEIGHTS)
    source = record.get("source")
    url = f"https://huggingface.co/{record['name']}" if source == "hf" and record.get("name") else None
    return Ancestor(
        name=str(record.get("name") or name),
        licence=licence,
        revision=record.get("revision"),
        text=licence_text(folder),
        url=url,
        hash=sha256(weights[0]) if len(weights) == 1 else None,
    )


def licence_text(folder: Path) -> str | None:
    """The licence file of a model folder."""
    for name in LICENCE_FILES:
        if (folder / name).is_file():
            return (folder / name).read_text("utf-8", errors="replace")
    return None


def front_matter(card: Path) -> Mapping[str, Any]:
    """The metadata of a model card; empty where there is none or it is damaged."""
    if not card.is_file():
        return {}
    from huggingface_hub import ModelCard

    try:
        return ModelCard(card.read_text("utf-8"), ignore_metadata_errors=True).data.to_dict()
    except (ValueError, UnicodeDecodeError):
        return {}


def spdx(licence: str, owner: str) -> str:
    """SPDX's spelling of an id; what SPDX does not know becomes LicenseRef-….

    >>> spdx("apache-2.0", "x"), spdx("llama3.1", "x")
    ('Apache-2.0', 'LicenseRef-llama3.1')
    """
    from seekling.release.licences import canonical

    if licence.startswith("LicenseRef-") or " OR " in licence or " AND " in licence:
        return licence
    return canonical(licence) or "LicenseRef-" + (re.sub(r"[^A-Za-z0-9.-]+", "-", licence).strip("-") or owner)
