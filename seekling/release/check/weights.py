"""The weights as their headers describe them: damaged or oversized, against the config, against the counts."""

import math
import re
from collections.abc import Iterator
from typing import Any

from seekling.errors import SeeklingError
from seekling.formats.safetensors_io import read_header, read_metadata
from seekling.release.check.finding import FAIL, NOTE, PASS, Finding
from seekling.release.check.place import Place, Trouble, short

MOST_WEIGHT_FILES = 400
LARGEST_HEADER = 16 << 20  # a header of the largest models takes 10 MB; one of 100 MB is there to do harm
NUMBERS = {"F64", "F32", "F16", "BF16", "F8_E4M3", "F8_E5M2", "I8", "U8"}


def weight_findings(place: Place, config: dict[str, Any], manifest: dict[str, Any] | None) -> Iterator[Finding]:
    """Findings about every weight file that is here."""
    files = place.matching(r"(.*/)?[^/]+\.safetensors")
    here = [p for p in files if place.here(p)][:MOST_WEIGHT_FILES]
    bad, numbers = 0, 0
    for path in here:
        try:
            length = int.from_bytes(place.head(path, 8), "little")
            if length > LARGEST_HEADER:
                raise Trouble(f"{path}: its header claims {length:,} bytes, more than {LARGEST_HEADER:,}: not read")
            entries = read_header(place.root / path)
        except SeeklingError as error:
            bad += 1
            line = short(str(error).replace(str(place.root) + "/", ""), 300)
            yield Finding("weights.header", FAIL, line, path, remedy="get the file again; do not open it elsewhere")
            continue
        if "/" not in path:
            numbers += sum(math.prod(e.shape) for name, e in entries.items() if not name.endswith("_scale_inv"))
    if here and not bad:
        yield Finding("weights.header", PASS, f"headers of {len(here)} safetensors files hold no lies", here[0])
    if files and len(here) < len(files):
        yield Finding(
            "weights.absent", NOTE, f"{len(files) - len(here)} weight files were not fetched; their headers were not read"
        )
    if not files and not place.matching(r".*\.gguf"):
        pickled = place.matching(r".*\.(bin|pt|pth|ckpt)")
        what = f"only pickled weights ({pickled[0]})" if pickled else "no weights"
        yield Finding("weights.none", FAIL, f"there are {what}", remedy="publish the weights as safetensors")
    if here and not bad and len(here) == len(files):
        yield from _against_config(place, config)
        yield from _counts(numbers, manifest)


def _against_config(place: Place, config: dict[str, Any]) -> Iterator[Finding]:
    """Whether the tensors are those that the config describes, for the families that are known here."""
    from seekling.formats import families
    from seekling.inspection import inspect

    if not config or not place.has("config.json") or config.get("model_type") not in families.ARCHITECTURES:
        return
    found = inspect(place.root)
    if found.loads:
        yield Finding("weights.config", PASS, "tensors, config and tokenizer fit together", "config.json")
    else:
        shown = tuple(short(line, 200) for line in found.refused[:8])
        yield Finding(
            "weights.config", FAIL, f"it would not load: {shown[0] if shown else 'unknown why'}", "config.json", shown[1:]
        )


def _counts(numbers: int, manifest: dict[str, Any] | None) -> Iterator[Finding]:
    model = (manifest or {}).get("model")
    if not isinstance(model, dict):
        return
    if (manifest or {}).get("kind") == "adapter":  # its base's weights, which are counted, are not here
        return
    stated = [model.get(k) for k in ("parameters", "mtp_parameters")]
    total = sum(n for n in stated if isinstance(n, int))
    # tied heads are stored once or twice, MTP layers carry copies of the embedding
    if total and not 0.5 * total <= numbers <= 2 * total:
        text = f"release.json counts {total:,} parameters, the files hold {numbers:,}"
        yield Finding("weights.count", FAIL, text, "release.json", remedy="count again")
    elif total:
        yield Finding(
            "weights.count", PASS, f"parameters as counted in release.json ({total:,}; stored {numbers:,})", "release.json"
        )
    active = model.get("active_parameters")
    if isinstance(active, int) and isinstance(model.get("parameters"), int) and active > model["parameters"]:
        yield Finding(
            "weights.count", FAIL, f"release.json counts more active parameters ({active:,}) than there are", "release.json"
        )


def header_licences(place: Place) -> dict[str, str]:
    """Licence by file, for weights that carry one in their header."""
    out = {}
    for path in place.matching(r"[^/]+\.safetensors")[:MOST_WEIGHT_FILES]:
        if not place.here(path) or place.entries[path].size < 8:
            continue
        try:
            if int.from_bytes(place.head(path, 8), "little") <= LARGEST_HEADER:
                metadata = read_metadata(place.root / path)
                licence = metadata.get("license") or metadata.get("licence")
                if licence:
                    out[path] = licence[:200]
        except SeeklingError:
            continue
    for path in place.matching(r"[^/]+\.gguf"):
        licence = place.gguf(path).get("general.license")
        if isinstance(licence, str) and licence:
            out[path] = re.sub(r"\s+", " ", licence)[:200]
    return out
