"""Pickles found by their content, and what one would import if somebody opened it. Nothing is ever unpickled."""

import io
import pickletools
import zipfile
from collections.abc import Iterator

from seekling.release.check.place import Place, Trouble

SCANNED = 2 << 20  # bytes of a pickle whose operations are read
MOST_OPS = 200_000
# What torch's and numpy's own pickles import; anything else in one is worth a warning of its own.
_USUAL = (
    "torch",
    "numpy",
    "collections",
    "_codecs",
    "builtins.set",
    "builtins.list",
    "builtins.dict",
    "copyreg",
    "__builtin__.set",
)
_RUNNERS = ("eval", "exec", "compile", "getattr", "__import__", "open", "system", "popen", "apply", "breakpoint")


def pickle_kind(place: Place, path: str) -> tuple[str, list[str]] | None:
    """What kind of pickle a file is and the names it would import; None when it is none. Raises Trouble."""
    head = place.head(path, 16)
    if head.startswith(b"PK\x03\x04"):
        return _in_zip(place, path)
    if head.startswith(b"\x93NUMPY"):
        return _in_numpy(place, path)
    if head[:1] == b"\x80" and 2 <= head[1] <= 5 and len(head) > 2:
        return "a pickle", sorted(imports(place.head(path, SCANNED)))
    if path.endswith((".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt", ".bin")) and _looks_like_text_pickle(head):
        return "a pickle (protocol 0)", sorted(imports(place.head(path, SCANNED)))
    return None


def _looks_like_text_pickle(head: bytes) -> bool:
    return head[:1] in b"(cI]}\x8a" and (b"\n" in head or head[:1] in b"(]}")


def _in_zip(place: Place, path: str) -> tuple[str, list[str]] | None:
    """torch's zip files hold data.pkl; an .npz may hold object arrays; a Keras file may hold code."""
    found: set[str] = set()
    kind = None
    try:
        with place.open(path) as file, zipfile.ZipFile(file) as archive:
            for info in archive.infolist()[:2000]:
                if info.filename.endswith((".pkl", ".pickle")):
                    kind = "a zip with a pickle inside (torch.save)"
                elif info.filename.endswith(".npy"):
                    with archive.open(info) as member:
                        if _object_array(member.read(4096)):
                            kind = "a zip with pickled objects inside (numpy)"
                    continue
                else:
                    continue
                with archive.open(info) as member:
                    found |= imports(member.read(SCANNED))
    except (zipfile.BadZipFile, OSError, NotImplementedError, RuntimeError, ValueError, EOFError) as error:
        raise Trouble(f"{path} is a damaged zip file ({error})") from None
    return None if kind is None else (kind, sorted(found))


def _in_numpy(place: Place, path: str) -> tuple[str, list[str]] | None:
    head = place.head(path, 4096)
    if not _object_array(head):
        return None
    body = place.head(path, SCANNED)
    start = body.find(b"\x80", 10)
    return "a numpy file of pickled objects", sorted(imports(body[start:])) if start > 0 else []


def _object_array(head: bytes) -> bool:
    return head.startswith(b"\x93NUMPY") and (b"'|O'" in head or b'"|O"' in head or b"'O'" in head)


def imports(content: bytes) -> set[str]:
    """``module.name`` of everything a pickle would import, read from its operations without carrying one out."""
    found: set[str] = set()
    strings: list[str] = []
    try:
        for count, (operation, argument, _) in enumerate(pickletools.genops(io.BytesIO(content))):
            if count > MOST_OPS:
                break
            if operation.name in ("GLOBAL", "INST"):
                found.add(str(argument).replace(" ", ".")[:120])
            elif operation.name == "STACK_GLOBAL" and len(strings) >= 2:
                found.add(f"{strings[-2]}.{strings[-1]}"[:120])
            elif isinstance(argument, str):
                strings = [*strings[-8:], argument]
    except Exception:  # damaged on purpose or cut at the limit: what was read until there counts
        pass
    return found


def unusual(names: list[str]) -> Iterator[str]:
    """Imports that tensors do not need."""
    for name in names:
        usual = name.startswith(_USUAL) and name.rsplit(".", 1)[-1] not in _RUNNERS
        if not usual:
            yield name
