"""A hub's repository for checking: the whole listing, and only its small files."""

import os
from collections.abc import Callable, Iterable
from pathlib import Path

from seekling.errors import DataError
from seekling.hub.http import Client, Refused
from seekling.hub.names import Repository
from seekling.hub.remote import HUBS, RemoteFile, explained
from seekling.release.check.place import Entry, Place

SMALL = 4 << 20  # bytes of a file that is fetched
LARGEST_TOKENIZER = 32 << 20
MOST_BYTES = 128 << 20
MOST_FETCHED = 300
_LEFT = (
    ".safetensors",
    ".gguf",
    ".bin",
    ".pt",
    ".pth",
    ".ckpt",
    ".onnx",
    ".msgpack",
    ".h5",
    ".png",
    ".jpg",
    ".jpeg",
    ".gif",
    ".mp4",
    ".svg",
)


def fetch_small(
    wanted: Repository,
    folder: Path,
    *,
    source: str = "hf",
    endpoint: str | None = None,
    say: Callable[[str], None] = lambda text: None,
    pause: float = 1.0,
    tries: int = 5,
) -> Place:
    """List a repository and fetch its small files into ``folder``; weights and pictures are only listed.

    Raises:
        DataError: no such repository, no access, or what arrives is not what is listed. MachineError: the disk is full.
    """
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        raise DataError(f"HF_HUB_OFFLINE is set, so {wanted} is not asked for; unset it, or give a folder")
    hub = HUBS[source]
    client = Client(hub.endpoint(endpoint), hub.token(), cookie=hub.cookie, pause=pause, tries=tries, say=say)
    try:
        listing = hub.listing(client, wanted)
        chosen = choose(listing.files.values())
        say(f"fetching {len(chosen)} of {len(listing.files)} files of {wanted} ({sum(f.size for f in chosen) / 1e6:.1f} MB)")
        for file in chosen:
            target = folder / file.path
            target.parent.mkdir(parents=True, exist_ok=True)
            client.download(file.request, target, file.expected)
    except Refused as refused:
        raise explained(refused, wanted, hub) from None
    entries = {f.path: Entry(f.path, f.size, sha256=f.expected.sha256) for f in listing.files.values()}
    absent = frozenset(entries) - {f.path for f in chosen}
    remote = {"name": str(wanted), "revision": listing.revision, "licence": listing.licence}
    return Place(folder, f"{wanted} ({source}, {listing.revision[:12]})", entries, absent, [], remote)


def choose(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """The files worth fetching, cards, licences and configs first, within the limits."""
    found = [f for f in files if _wanted(f)]
    found.sort(key=lambda f: (f.path.count("/"), not _first(f.path), f.size, f.path))
    out: list[RemoteFile] = []
    total = 0
    for file in found[:MOST_FETCHED]:
        if total + file.size <= MOST_BYTES:
            out.append(file)
            total += file.size
    return out


def _wanted(file: RemoteFile) -> bool:
    if file.path.lower().endswith(_LEFT):
        return False
    return file.size <= (LARGEST_TOKENIZER if file.path.endswith("tokenizer.json") else SMALL)


def _first(path: str) -> bool:
    return path.upper().startswith(("README", "LICEN", "NOTICE", "COPYING", "USE_POLICY")) or path.endswith((".json", ".jinja"))
