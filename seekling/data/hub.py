"""Data sets of the Hugging Face hub, streamed with the `datasets` library (the hub extra) into a file of the cache, once."""

import json
import os
from pathlib import Path
from typing import Any

from seekling.data.sources import Source
from seekling.errors import DataError


def hub_file(source: Source, cache: Path) -> Path:
    """The source's rows as JSONL, fetched when they are not in the cache.

    Raises:
        DataError: the library is missing, or the hub cannot be reached, or the rows lack the field.
    """
    parts = (source.where, source.config, source.split, source.version, str(source.limit), source.field)
    name = "-".join(part for part in parts if part)
    path = cache / "hub" / f"{name.replace('/', '+')}.jsonl"
    if path.is_file():
        return path
    try:
        from datasets import load_dataset
    except ImportError:
        raise DataError(f"source {source.name} needs the datasets library: pip install 'seekling[hub]'") from None
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.partial")
    try:
        rows = load_dataset(source.where, source.config or None, split=source.split, revision=source.version, streaming=True)
        with open(partial, "w", encoding="utf-8") as file:
            for number, row in enumerate(rows):
                if source.limit and number >= source.limit:
                    break
                file.write(json.dumps(_row(source, row), ensure_ascii=False) + "\n")
        os.replace(partial, path)
    except DataError:
        raise
    except Exception as error:  # the library passes on errors of many kinds
        raise DataError(f"source {source.name}: the hub gave no data ({error!r}); check the connection and the entry") from None
    finally:
        partial.unlink(missing_ok=True)
    return path


def _row(source: Source, row: dict[str, Any]) -> dict[str, Any]:
    if source.field not in row:
        raise DataError(f"source {source.name}: rows have no field {source.field!r} (they have {', '.join(row)})")
    return {"messages" if isinstance(row[source.field], list) else "text": row[source.field]}
