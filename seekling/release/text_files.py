"""The data of a release: the manifest of all sources, held-out text as JSON lines, and with ``--with-data`` all training
text."""

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import CheckpointError, MachineError
from seekling.release.escape import scrubbed
from seekling.release.layout import DATA_CARD, DATA_MANIFEST, HELDOUT, TRAIN_TEXT, sha256
from seekling.release.sources import files_read

if TYPE_CHECKING:
    from seekling.data import TokenStream
    from seekling.data.prepare import Prepared
    from seekling.release.chain import Stage
    from seekling.release.material import Release
    from seekling.text.tokenizer import Tokenizer


def prepared_text(stage: "Stage", say: Callable[[str], None]) -> "Prepared":
    """The very text that a run of pretraining read, from the cache or made again.

    Raises:
        CheckpointError: what is made now has another fingerprint than the run pinned.
    """
    from seekling.train.pretrain import prepare_data
    from seekling.train.rundir import data_fingerprint

    prepared = prepare_data(stage.recipe, stage.run, say)
    pinned = stage.state.get("pinned", {}).get("data")
    if pinned is not None and data_fingerprint(prepared.train) != pinned:
        raise CheckpointError(
            f"the text that can be had now is not what {stage.run} was trained on (its fingerprint differs): a source file "
            f"was changed "
            "or is missing; put it back, or repeat the run"
        )
    return prepared


def write_data(folder: Path, release: "Release", prepared: "Prepared | None", say: Callable[[str], None]) -> None:
    """``data/``: manifest, held-out text, and training text on request."""
    (folder / DATA_CARD).parent.mkdir(parents=True)
    manifest: dict[str, Any] = {
        "format": 1,
        "sources": [s.to_dict() for s in release.chain.sources],
        "prepared": {k: v for k, v in prepared.manifest.items() if k != "sources"} if prepared is not None else None,
        "details": _details(release, prepared) if prepared is not None else {},
        "files": {},
    }
    if prepared is not None:
        streams = [(name, stream) for name, stream in prepared.heldout.items()]
        lines = (line for name, stream in streams for line in documents(stream, prepared.tokenizer, name))
        manifest["files"][HELDOUT] = _write(folder / HELDOUT, lines)
        if release.options.with_data:
            say("writing the training text")
            manifest["files"][TRAIN_TEXT] = _write(
                folder / TRAIN_TEXT, documents(prepared.train, prepared.tokenizer, None), packed=True
            )
    if release.options.with_data:
        for stage in release.chain.stages:
            manifest["files"] |= copy_files(folder, stage)
    (folder / DATA_MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")


def _details(release: "Release", prepared: "Prepared") -> dict[str, Any]:
    """What the preparation noted of every source, with the licence that was declared, and no path of this machine."""
    licences = {s.name: s.licence for s in release.chain.sources}
    every = {
        name: {**table, "licence": licences.get(name, table["licence"])} for name, table in prepared.manifest["sources"].items()
    }
    return json.loads(scrubbed(json.dumps(every, ensure_ascii=False)))


def copy_files(folder: Path, stage: "Stage") -> dict[str, Any]:
    """The files of conversations that a stage read, under ``data/``; their bytes are the run's, which was checked before.

    Raises:
        CheckpointError: one is gone.
    """
    done = {}
    for path in files_read(stage.value("data", ()) if stage.verb != "pretrain" else (), stage.run):
        if not path.is_file():
            raise CheckpointError(
                f"{path}, which {stage.run} was taught from, is missing; put it back, or leave --with-data out"
            )
        place = f"data/{stage.number}-{stage.verb}-{path.name}"
        shutil.copyfile(path, folder / place)
        done[place] = {"bytes": path.stat().st_size, "sha256_of_content": sha256(path)}
    return done


def documents(stream: "TokenStream", tokenizer: "Tokenizer", source: str | None) -> Iterator[str]:
    """A JSON line a document, as it was read: source, text, and how often in a row it stands there."""
    last: tuple[str, bytes] | None = None
    times = 0
    marks = (tokenizer.bos_id, tokenizer.eos_id)
    pieces = [b"" if i in marks else tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
    for number in range(stream.documents):
        name = source or stream.names[int(stream.source_of[number])]
        found = (name, b"".join(map(pieces.__getitem__, stream.document(number).tolist())))
        if last is not None and found != last:
            yield _line(last, times)
            times = 0
        last = found
        times += 1
    if last is not None:
        yield _line(last, times)


def _line(found: tuple[str, bytes], times: int) -> str:
    record: dict[str, Any] = {"source": found[0], "text": found[1].decode("utf-8", "replace")}
    return json.dumps(record | ({"times": times} if times > 1 else {}), ensure_ascii=False)


def _write(path: Path, lines: Iterator[str], packed: bool = False) -> dict[str, Any]:
    """Write lines; returns how many, and the bytes and hash of what they are before packing."""
    digest, count, size = hashlib.sha256(), 0, 0
    with open(path, "wb") as file:
        target: Any = file
        if packed:
            try:
                import zstandard
            except ImportError:
                raise MachineError("--with-data needs zstandard: pip install 'seekling[release]'") from None
            target = zstandard.ZstdCompressor(level=15).stream_writer(file, closefd=False)
        buffer = io.BytesIO()
        for line in lines:
            content = line.encode() + b"\n"
            digest.update(content)
            count, size = count + 1, size + len(content)
            buffer.write(content)
            if buffer.tell() > 1 << 20:
                target.write(buffer.getvalue())
                buffer = io.BytesIO()
        target.write(buffer.getvalue())
        if packed:
            target.close()
    return {"documents": count, "bytes": size, "sha256_of_content": digest.hexdigest()}
