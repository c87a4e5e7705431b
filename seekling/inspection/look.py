"""Inspect a path: which kind it is, and what each kind tells.

No weight is read, no code of the folder is run, no pickle is opened.
"""

import dataclasses
import json
import warnings
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, SeeklingError
from seekling.formats import checkpoint, families, hf
from seekling.formats import folder as files
from seekling.inspection.describe import describe
from seekling.inspection.headers import Stored, error_lines, stored_in
from seekling.inspection.report import Inspection
from seekling.inspection.text import describe_text, licence_of, read_text
from seekling.model.config import ModelConfig
from seekling.plan import size_text

ADAPTER = "adapter_config.json"
QUANTISATIONS = ("fp8", "mxfp4")
_TEXT_FILES = ("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "vocab.json", "merges.txt", "chat_template.jinja")


def inspect(path: str | Path) -> Inspection:
    """Look at a checkpoint folder, run, GGUF file, adapter folder, pulled model's name, safetensors or config.json file.

    Raises:
        CheckpointError: there is nothing of that name.
    """
    from seekling.hub.names import find

    place = Path(path)
    if not place.exists() and len(place.parts) == 1 and Path("runs", place).is_dir():
        place = Path("runs", place)
    if not place.exists():
        found = find(path)
        if found is None:
            raise CheckpointError(f"{path} does not exist; give a model folder, a .gguf file, a run or a pulled model's name")
        place = found
    if place.is_dir():
        return _folder(place)
    if place.suffix == ".gguf":
        return _gguf(place)
    if place.suffix == ".json":
        return _config_file(place)
    if place.suffix == ".safetensors":
        return _safetensors(place)
    if place.suffix in files.PICKLES:
        out = Inspection(str(place), "weights")
        out.refused.append(f"{place.name} is a pickle, which can run code when opened; never opened")
        return out
    raise CheckpointError(f"{place} is a file of no known kind; give a folder, a .gguf, .safetensors or config.json file")


# ---- folders ---------------------------------------------------------------------------------------------------------


def _folder(place: Path) -> Inspection:
    if (place / ADAPTER).exists() and not (place / files.CONFIG).exists():
        return _adapter(place)
    ggufs = sorted(place.glob("*.gguf"))
    if ggufs and not (place / files.CONFIG).exists():
        return _gguf(ggufs[0])
    out = Inspection(str(place), "checkpoint")
    if (place / "checkpoints").is_dir() and not (place / files.CONFIG).exists():
        from seekling.lm import resolve

        place = resolve(place)
        taught = (place / ADAPTER).exists()
        out = _adapter(place) if taught else dataclasses.replace(out, kind="run")
        out.notes.append(f"newest complete checkpoint: {place.name}")
        if taught:
            return out
    _list_files(place, out)
    raw = _raw_config(place, out)
    config = _config(raw, out)
    stored = stored_in(place, raw) if raw else Stored()
    _weights(stored, raw, config, out)
    if config is not None and stored.shapes:
        if config.num_nextn_predict_layers and not any(hf.is_mtp(name, config) for name in reversed(list(stored.shapes))):
            config = dataclasses.replace(config, num_nextn_predict_layers=0)
            out.notes.append("it announces multi-token prediction but holds no weights of it; it loads without")
        out.refused += _misfits(config, stored)
    out.refused += stored.problems
    out.licence = licence_of(place)
    read_text(place, out)
    _judge(out)
    return out


def _judge(out: Inspection) -> None:
    """Say whether it loads, and whether it would fit into this machine's memory."""
    out.loads = not out.refused
    needed = out.model.get("parameters", 0) * 2
    if out.loads and needed:
        from seekling.machine import look

        available = look().memory_available
        if needed > available:
            out.notes.append(f"its weights are more than this machine's memory ({size_text(available)} available)")


def _raw_config(place: Path, out: Inspection) -> dict[str, Any]:
    if not (place / files.CONFIG).exists():
        out.refused.append(f"there is no {files.CONFIG}")
        return {}
    try:
        return files.read_json(place, files.CONFIG)
    except CheckpointError as error:
        out.refused += error_lines(error)
        return {}


def _config(raw: dict[str, Any], out: Inspection) -> ModelConfig | None:
    """The config as it would be read; what of it is refused goes into ``out``."""
    if not raw:
        return None
    if raw.get("auto_map"):
        code = sorted({name.split("--")[-1].split(".")[0] + ".py" for name in _texts(raw["auto_map"])})
        out.ignored.append(f"auto_map: remote code ({', '.join(code) or 'unnamed'}), not needed and never run")
    plain = {key: value for key, value in raw.items() if key != "quantization_config"}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            config = families.read_config(plain)
            told = describe(config, raw)
        except SeeklingError as error:
            out.refused += error_lines(error)
        except (TypeError, ValueError, KeyError, IndexError, AttributeError, ArithmeticError) as error:
            out.refused.append(f"config.json makes no sense ({type(error).__name__}: {error}); copy it again")
        else:
            out.notes += [str(w.message) for w in caught]
            out.model = told
            return config
    names = _texts(raw.get("architectures"))
    out.model = {"model_type": str(raw.get("model_type")), "architecture": names[0] if names else None}
    return None


def _texts(value: Any) -> list[str]:
    """Every string in a JSON value."""
    if isinstance(value, str):
        return [value]
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [text for item in inner for text in _texts(item)]


def config_problems(path: Path) -> list[str]:
    """Why a model with this config.json would be refused whatever its weights are; empty when it would not."""
    out = Inspection(str(path), "config")
    raw = _raw_config(path.parent, out)
    _config(raw, out)
    quantised = raw.get("quantization_config")
    if quantised is not None:
        method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
        if method not in QUANTISATIONS:
            out.refused.append(
                f"quantization_config with quant_method {method!r} is not supported ({', '.join(QUANTISATIONS)} are)"
            )
    return out.refused


def _misfits(config: ModelConfig, stored: Stored) -> list[str]:
    """Missing, unexpected and misshaped tensors, as loading would list them."""
    try:
        checkpoint.check_fit(config, hf.as_published(config, stored))
    except SeeklingError as error:
        return error_lines(error)
    return []


def _weights(stored: Stored, raw: Mapping[str, Any], config: ModelConfig | None, out: Inspection) -> None:
    if not stored.tensors:
        return
    tensors = Counter(dtype for dtype, _ in stored.tensors.values())
    out.weights = _sums(stored.bytes, stored.numbers, tensors)
    quantised = raw.get("quantization_config")
    if isinstance(quantised, dict):
        block = quantised.get("weight_block_size")
        blocks = f", blocks of {block[0]} × {block[1]}" if isinstance(block, list) and len(block) == 2 else ""
        out.weights["quantisation"] = str(quantised.get("quant_method", "unknown")) + blocks


def _sums(size: Mapping[str, int], numbers: Mapping[str, int], tensors: Mapping[str, int]) -> dict[str, Any]:
    dtypes = {d: {"tensors": tensors[d], "bytes": size[d], "numbers": numbers[d]} for d in size}
    return {"bytes": sum(size.values()), "tensors": sum(tensors.values()), "dtypes": dtypes}


def _list_files(place: Path, out: Inspection) -> None:
    """Every file with its role; links that lead out and things that are never opened are said."""
    for path in sorted(place.iterdir()):
        if path.name.startswith("."):
            continue
        try:
            if path.is_symlink() and path.is_file():
                files.trusted_file(place, path.name)
        except CheckpointError as error:
            out.refused += error_lines(error)
            continue
        if not path.is_file():
            if path.is_symlink():
                out.refused.append(f"{path.name} is a link to nothing; copy the checkpoint again")
            continue
        out.files.append({"name": path.name, "bytes": path.stat().st_size, "role": _role(path.name)})
    for role, why in (("pickle", "pickles, which can run code when opened"), ("code", "code, which is never run")):
        names = [f["name"] for f in out.files if f["role"] == role]
        if names:
            out.ignored.append(f"{why}: {', '.join(names[:4])}{', …' if len(names) > 4 else ''}")


def _role(name: str) -> str:
    if name in (files.CONFIG, files.GENERATION):
        return "config"
    if name.endswith(".safetensors") or name == files.INDEX or name.endswith(".gguf"):
        return "weights"
    if name.endswith(files.PICKLES) or name.endswith((".bin.index.json", ".pkl", ".pickle")):
        return "pickle"
    if name in _TEXT_FILES or "token" in name or "template" in name:
        return "tokenizer"
    if name.upper().startswith(("README", "LICENSE", "LICENCE", "NOTICE", "USE_POLICY")):
        return "card"
    return "code" if name.endswith((".py", ".so", ".sh")) else "other"


# ---- other kinds -----------------------------------------------------------------------------------------------------


def _gguf(path: Path) -> Inspection:
    from seekling.formats.gguf_file import open_gguf

    out = Inspection(str(path), "gguf")
    out.files.append({"name": path.name, "bytes": path.stat().st_size, "role": "weights"})
    try:
        file = open_gguf(path)
    except SeeklingError as error:
        out.refused += error_lines(error)
        out.loads = False
        return out
    out.name = file.name
    size: Counter[str] = Counter()
    numbers: Counter[str] = Counter()
    tensors: Counter[str] = Counter()
    for tensor in file.tensors.values():
        kind = tensor.kind.name
        size[kind] += tensor.bytes
        tensors[kind] += 1
        count = 1
        for n in tensor.shape:
            count *= n
        numbers[kind] += count
    out.weights = _sums(size, numbers, tensors)
    out.weights["bits_per_weight"] = 8 * sum(size.values()) / max(1, sum(numbers.values()))
    config = _config(file.raw_config, out)
    if config is not None:
        out.refused += _misfits(config, Stored(shapes=file.source.shapes, where=str(path)))
    if out.model:
        out.model["architecture"] = out.model.get("architecture") or file.architecture
    if file.licence:
        out.licence = {"name": file.licence, "source": "GGUF metadata"}
    else:
        out.licence = licence_of(path.parent)
    try:
        describe_text(file.tokenizer(), out)
    except SeeklingError as error:
        out.refused += [f"tokenizer: {line}" for line in error_lines(error)]
    if out.tokenizer:
        out.tokenizer["source"] = "GGUF metadata"
    _judge(out)
    return out


def _config_file(path: Path) -> Inspection:
    out = Inspection(str(path), "config")
    try:
        raw = json.loads(path.read_text("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON ({error}); give a Hugging Face config.json") from None
    if not isinstance(raw, dict) or "model_type" not in raw:
        raise CheckpointError(f"{path} is no config.json of a model (it has no model_type)")
    _config(raw, out)
    out.notes.append("only a config: give its folder to inspect weights, tokenizer and licence")
    return out


def _safetensors(path: Path) -> Inspection:
    from seekling.formats.safetensors_io import read_header

    out = Inspection(str(path), "weights")
    out.files.append({"name": path.name, "bytes": path.stat().st_size, "role": "weights"})
    stored = Stored()
    try:
        for name, entry in read_header(path).items():
            stored.count(name, entry.dtype, entry.shape, entry.end - entry.start)
    except SeeklingError as error:
        out.refused += error_lines(error)
        return out
    _weights(stored, {}, None, out)
    out.notes.append("a single weight file: give the folder that holds it and its config.json to load it")
    return out


def _adapter(place: Path) -> Inspection:
    from seekling.formats.peft import WEIGHTS, unsupported

    out = Inspection(str(place), "adapter")
    _list_files(place, out)
    out.licence = licence_of(place)
    try:
        raw = files.read_json(place, ADAPTER)
        out.refused += unsupported(raw)
        if not (place / WEIGHTS).exists():
            raise CheckpointError(f"there is no {WEIGHTS}")
        weights = _safetensors(files.trusted_file(place, WEIGHTS))
    except SeeklingError as error:
        out.refused += error_lines(error)
        out.loads = False
        return out
    out.weights = weights.weights
    out.refused += weights.refused
    targets = raw.get("target_modules") or []
    if not isinstance(targets, str):
        targets = [*targets, *(raw.get("target_parameters") or [])]
    out.adapter = {
        "kind": raw.get("peft_type"), "rank": raw.get("r"), "alpha": raw.get("lora_alpha") or 0,
        "base": raw.get("base_model_name_or_path"),
        "parameters": sum(d["numbers"] for d in weights.weights.get("dtypes", {}).values()),
        "targets": [targets] if isinstance(targets, str) else sorted(map(str, targets)),
    }  # fmt: skip
    out.loads = not out.refused
    out.notes.append("an adapter loads onto its base model")
    return out
