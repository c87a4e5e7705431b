"""Text on this machine: .txt, .md, .jsonl, .jsonl.zst and .parquet, found recursively, in the order of their paths."""

import functools
import io
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

from seekling.data.filters import Content
from seekling.errors import DataError, raise_all
from seekling.text.chat import message_problems

READ = (".txt", ".md", ".jsonl", ".jsonl.zst", ".parquet")


def text_files(root: str | Path) -> tuple[list[Path], list[str]]:
    """Files to read under a folder (or the one file named), sorted, and notes on what was left out.

    Linked folders are not entered, linked files are read when they lie under the folder; hidden ones are skipped.

    Raises:
        DataError: no such folder, or nothing in it can be read.
    """
    root = Path(root)
    if root.is_file():
        if not root.name.endswith(READ):
            raise DataError(f"{root} is of a kind that is not read; use one of {', '.join(READ)}")
        return [root], []
    if not root.is_dir():
        raise DataError(f"there is no folder or file {root}: check the path")
    real_root = root.resolve()
    found, others, outside = [], 0, 0
    for folder, folders, names in os.walk(root, followlinks=False):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            path = Path(folder) / name
            if name.startswith(".") or not name.endswith(READ):
                others += not name.startswith(".")
            elif path.is_symlink() and not path.resolve().is_relative_to(real_root):
                outside += 1
            elif path.is_file():
                found.append(path)
    odd = [repr(str(path)) for path in found if str(path).encode("utf-8", "replace").decode() != str(path)]
    raise_all(DataError, [f"{path} has a name that is not UTF-8, which manifests are: rename it" for path in odd])
    found.sort(key=lambda path: path.relative_to(root).parts)
    notes = [f"{root}: {others} files of other kinds were not read"] if others else []
    notes += [f"{root}: {outside} links that lead out of the folder were not followed"] if outside else []
    if not found:
        raise DataError(f"{root} has no text: put {', '.join(READ)} files there" + (f" ({'; '.join(notes)})" if notes else ""))
    return found, notes


def read_file(path: Path) -> Iterator[Content]:
    """The documents of one file: a .txt or .md is one, a .jsonl line or .parquet row with ``text`` or ``messages`` is one.

    Raises:
        DataError: not UTF-8, a broken line (file:line), neither field, a missing library.
    """
    if path.name.endswith(".parquet"):
        yield from _parquet(path)
    elif path.name.endswith(".jsonl.zst"):
        with open(path, "rb") as file:
            yield from _json_lines(_unzstd(file, path), path)
    elif path.name.endswith(".jsonl"):
        with open(path, "rb") as file:
            yield from _json_lines(file, path)
    else:
        text = read_text(path)
        if text.strip():
            yield text


def read_text(path: Path) -> str:
    """A UTF-8 text file, without byte-order mark, lines ended by \\n."""
    try:
        return utf8(path.read_bytes(), str(path)).replace("\r\n", "\n").replace("\r", "\n")
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}): check the file's permissions") from None


def utf8(data: bytes, where: str) -> str:
    """Decode or name the place of the first byte that is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{where} is not UTF-8 (byte 0x{data[error.start]:02x} at {error.start}): convert it, "
            "such as with iconv -f latin1 -t utf-8"
        ) from None


def _json_lines(lines: IO[bytes], path: Path) -> Iterator[Content]:
    number = 0
    try:
        for number, line in enumerate(lines, 1):
            if line.strip():
                where = f"{path}:{number}"
                try:
                    row = json.loads(utf8(line, where))
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where} is no JSON ({error}): correct or remove the line") from None
                yield from map(functools.partial(_whole, where=where), _row(row, where))
    except OSError as error:
        raise DataError(f"{path} cannot be read after line {number} ({error}): write it again") from None


def _whole(content: Content, where: str) -> Content:
    """The content, unless UTF-8 cannot hold it: JSON's escapes can name half a surrogate pair, which is no character."""
    try:
        for text in [content] if isinstance(content, str) else [value for message in content for value in message.values()]:
            text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where} holds half a surrogate pair, which is no character: correct or remove the line") from None
    return content


def _row(row: Any, where: str) -> Iterator[Content]:
    if not isinstance(row, dict):
        raise DataError(f'{where} is a {type(row).__name__}, not an object with a "text" or "messages" field')
    text, messages = row.get("text"), row.get("messages")
    if isinstance(messages, list):
        problems = list(message_problems(messages))
        if problems:
            raise DataError(f"{where}: {'; '.join(problems)}")
        yield [{key: value for key, value in message.items() if value is not None} for message in messages]
    elif isinstance(text, str):
        if text.strip():
            yield text
    else:
        fields = ", ".join(map(str, row)) or "none"
        raise DataError(f'{where} needs a "text" string or a "messages" list (its fields: {fields})')


def _unzstd(file: IO[bytes], path: Path) -> IO[bytes]:
    try:
        import zstandard
    except ImportError:
        raise DataError(f"{path} needs the zstandard library: pip install 'seekling[files]'") from None

    class Reader(io.RawIOBase):  # zstandard's own error becomes one that names the file
        inner = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)

        def readable(self) -> bool:
            return True

        def readinto(self, buffer: Any) -> int:
            try:
                return self.inner.readinto(buffer)
            except zstandard.ZstdError as error:
                raise OSError(str(error)) from None

    return io.BufferedReader(Reader(), 2**20)


def _parquet(path: Path) -> Iterator[Content]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError:
        raise DataError(f"{path} needs the pyarrow library: pip install 'seekling[files]'") from None
    try:
        table = pyarrow.parquet.ParquetFile(path)
        columns = [name for name in ("messages", "text") if name in table.schema_arrow.names]
        if not columns:
            raise DataError(f'{path} has no "text" or "messages" column (it has {", ".join(table.schema_arrow.names)})')
        number = 0
        for batch in table.iter_batches(batch_size=1024, columns=columns):
            for row in batch.to_pylist():
                number += 1
                yield from _row(row, f"{path}: row {number}")
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({str(error).splitlines()[0]}): write it again") from None
