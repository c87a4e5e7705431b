"""Which files of a repository a model needs: config, tokenizer, card and one form of the weights; never code, never pickles."""

import fnmatch
import re
from collections.abc import Iterable, Mapping

from seekling.errors import DataError
from seekling.formats.folder import INDEX, MTP_FILE, PICKLES, SINGLE
from seekling.hub.remote import RemoteFile

# Beside the weights, at the top of the repository.
CARD = ("README.md", "LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
SMALL = (
    "config.json", "generation_config.json", "adapter_config.json", INDEX, "tokenizer.json", "tokenizer_config.json",
    "special_tokens_map.json", "added_tokens.json", "vocab.json", "merges.txt", "tokenizer.model", "*.tiktoken",
    "chat_template.jinja", "chat_template.json",
)  # fmt: skip
ADAPTER = "adapter_model.safetensors"
# Ours and nobody else's.
RESERVED = ("seekling-pull.json",)
_PART = re.compile(r"-(\d{5})-of-(\d{5})$")


def matching(names: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """The names at the top of the repository that fit one of the patterns."""
    return sorted(n for n in names if "/" not in n and any(fnmatch.fnmatchcase(n, pattern) for pattern in patterns))


def gguf_files(files: Mapping[str, RemoteFile], file: str | None, quant: str | None, repository: object) -> list[str]:
    """The GGUF file (all parts of a split one) that ``--file`` or ``--quant`` names, or the only one.

    Raises:
        DataError: none or several fit; the message lists what there is.
    """
    models: dict[str, list[str]] = {}
    for name in sorted(files):
        if name.endswith(".gguf"):
            models.setdefault(_PART.sub("", name.removesuffix(".gguf")), []).append(name)
    models = {stem: parts for stem, parts in models.items() if "mmproj" not in stem.lower()}
    if file is not None:
        fitting = [stem for stem, parts in models.items() if file in parts or file.removesuffix(".gguf") == stem]
    elif quant is not None:
        token = re.compile(rf"(?<![A-Za-z0-9]){re.escape(quant)}(?![A-Za-z0-9_])", re.IGNORECASE)
        fitting = [stem for stem in models if token.search(stem)]
    else:
        fitting = list(models)
    if len(fitting) == 1:
        parts = models[fitting[0]]
        split = _PART.search(parts[0].removesuffix(".gguf"))
        if split and len(parts) != int(split[2]):
            raise DataError(f"{repository} lists {len(parts)} of the {int(split[2])} parts of {fitting[0]}: it is incomplete")
        return parts
    there = ", ".join(f"{stem}.gguf ({_size(sum(files[p].size for p in parts))})" for stem, parts in models.items())
    asked = f"--file {file}" if file is not None else f"--quant {quant}" if quant is not None else ""
    if not models:
        raise DataError(f"{repository} has no GGUF files; pull it without {asked or '--quant'}")
    how = "several GGUF files" if asked == "" else f"{'no' if not fitting else 'several'} GGUF files that fit {asked}"
    raise DataError(f"{repository} has {how}; choose one with --quant or --file: {there}")


def weight_names(names: Iterable[str], weight_map: Mapping[str, str] | None, file: str | None, repository: object) -> list[str]:
    """The safetensors files: those the index names, the single one, or an adapter's; MTP layers of ours with them.

    Args:
        weight_map: of the index, None where the repository has none.
        file: a safetensors file asked for by name.

    Raises:
        DataError: there are none, an index names what is not there, or several could be meant.
    """
    names = set(names)
    tensors = sorted(n for n in names if n.endswith(".safetensors") and "/" not in n)
    if file is not None:
        if file not in names or not file.endswith(".safetensors"):
            raise DataError(f"{repository} has no weights {file!r}; it has {', '.join(tensors) or 'no safetensors files'}")
        return [file]
    mtp = [MTP_FILE] if MTP_FILE in names else []
    if weight_map is not None:
        parts = sorted(set(weight_map.values()))
        absent = [p for p in parts if p not in tensors]
        if absent:
            raise DataError(f"{repository}: its index names {', '.join(map(repr, absent[:3]))}, not among its weights: refused")
        return parts + [m for m in mtp if m not in parts]
    for single in (SINGLE, ADAPTER):
        if single in names:
            return [single, *mtp]
    if len(tensors) == 1:
        return tensors
    if tensors:
        raise DataError(f"{repository} has several weight files and no index; choose one with --file: {', '.join(tensors)}")
    pickles = sorted(n for n in names if n.endswith(PICKLES))
    if pickles:
        raise DataError(
            f"{repository} has only pickled weights ({pickles[0]}), which can run code when opened and are never pulled: "
            "look for a revision or a copy with .safetensors (hubs have a bot that converts)"
        )
    raise DataError(f"{repository} holds no weights that can be read (.safetensors or .gguf): check the name")


def local_name(path: str) -> str:
    """Where a file of the repository lies in the folder: a chosen file from below comes to the top."""
    name = path.rsplit("/", 1)[-1]
    if name in RESERVED or name.startswith("."):
        raise DataError(f"the repository has a file {path!r} whose name is refused")
    return name


def _size(n: int) -> str:
    from seekling.plan import size_text

    return size_text(n)
