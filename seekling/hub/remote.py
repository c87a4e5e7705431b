"""What a hub lists of a repository: the two dialects, Hugging Face's and ModelScope's."""

import os
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, quote_plus

from seekling.data.fetch import safe_member
from seekling.errors import DataError
from seekling.hub.http import Client, Expected, Refused
from seekling.hub.names import Repository

MAX_FILES = 100_000


@dataclass(frozen=True)
class RemoteFile:
    """A file of a repository: its path there, what it must be, and the request that brings it."""

    path: str
    expected: Expected
    request: str

    @property
    def size(self) -> int:
        return self.expected.size


@dataclass(frozen=True)
class Listing:
    """A repository at one commit."""

    files: dict[str, RemoteFile]
    revision: str
    licence: str | None


class HuggingFace:
    """The Hugging Face Hub, or anything that speaks its API. Endpoint: ``--endpoint``, HF_ENDPOINT, the library's own."""

    name = "hf"
    token_name = "HF_TOKEN"
    cookie: str | None = None

    @staticmethod
    def endpoint(given: str | None) -> str:
        if given or os.environ.get("HF_ENDPOINT"):
            return given or os.environ["HF_ENDPOINT"]
        from huggingface_hub import constants

        return constants.ENDPOINT

    @staticmethod
    def token() -> str | None:
        """HF_TOKEN, or what ``hf auth login`` has stored."""
        from huggingface_hub import get_token

        return get_token()

    @staticmethod
    def listing(client: Client, repository: Repository) -> Listing:
        """Every file with size and hash. Raises as `Client.json`; DataError for an answer that makes no sense."""
        revision = quote(repository.revision or "main", safe="")
        raw = client.json(f"/api/models/{repository.id}/revision/{revision}?blobs=true")
        files = {}
        with _sense(client, repository):
            commit = str(raw["sha"])
            for entry in raw["siblings"]:
                path, lfs = checked_path(entry["rfilename"]), entry.get("lfs") or {}
                size = lfs.get("size", entry.get("size"))
                expected = Expected(_count(size), lfs.get("sha256"), None if lfs else entry.get("blobId"))
                files[path] = RemoteFile(path, expected, f"/{repository.id}/resolve/{quote(commit)}/{quote(path)}")
            licence = (raw.get("cardData") or {}).get("license")
        return Listing(_bounded(files), commit, licence if isinstance(licence, str) else None)


class ModelScope:
    """ModelScope. Endpoint: ``--endpoint`` or MODELSCOPE_ENDPOINT (MODELSCOPE_DOMAIN, as its own client has it, works too)."""

    name = "modelscope"
    token_name = "MODELSCOPE_API_TOKEN"
    cookie: str | None = "m_session_id"

    @staticmethod
    def endpoint(given: str | None) -> str:
        domain = os.environ.get("MODELSCOPE_DOMAIN")
        found = given or os.environ.get("MODELSCOPE_ENDPOINT") or (domain and f"https://{domain}")
        if not found:
            raise DataError("--from modelscope needs the hub's address: --endpoint https://HOST, or MODELSCOPE_ENDPOINT")
        return found

    @staticmethod
    def token() -> str | None:
        return os.environ.get("MODELSCOPE_API_TOKEN") or None

    @staticmethod
    def listing(client: Client, repository: Repository) -> Listing:
        """See `HuggingFace.listing`."""
        revision = quote_plus(repository.revision or "master")
        base = f"/api/v1/models/{repository.id}/repo"
        raw = client.json(f"{base}/files?Revision={revision}&Recursive=true")
        files = {}
        commits = []
        with _sense(client, repository):
            if raw.get("Code") not in (None, 200):
                raise Refused(404, f"the hub answered {raw.get('Code')} ({str(raw.get('Message'))[:200]})")
            for entry in raw["Data"]["Files"]:
                if entry.get("Type") == "tree":
                    continue
                path = checked_path(entry["Path"])
                request = f"{base}?Revision={revision}&FilePath={quote_plus(path)}"
                files[path] = RemoteFile(path, Expected(_count(entry["Size"]), entry.get("Sha256") or None), request)
                commits.append((entry.get("CommittedDate") or 0, str(entry.get("Revision") or "")))
        return Listing(_bounded(files), max(commits, default=(0, ""))[1] or repository.revision or "master", None)


Hub = type[HuggingFace] | type[ModelScope]
HUBS: dict[str, Hub] = {"hf": HuggingFace, "modelscope": ModelScope}


def checked_path(path: Any) -> str:
    """A path of a listing. DataError when it would lead out of the folder, whether the file is wanted or not."""
    if not isinstance(path, str):
        raise TypeError(f"a path that is {type(path).__name__}")
    try:
        return safe_member(path).as_posix()
    except DataError:
        raise DataError(f"the repository lists a file with a path that is refused: {path!r}; do not trust it") from None


def explained(refused: Refused, repository: Repository, hub: Hub) -> DataError:
    """The hub's refusal with what the user can do."""
    token, page = hub.token_name, f"{repository.id}'s page"
    what = {
        401: f"{repository} is private, gated or does not exist: check the name, or set {token} to your access token",
        403: f"{repository} is gated: accept its terms on {page}, and set {token} to an access token of that account",
        404: f"{repository} does not exist on this hub (or that revision does not): check the name and --from",
    }.get(refused.status, f"{repository} cannot be had: check the name and --endpoint")
    return DataError(f"{what} ({refused})")


def _bounded(files: dict[str, RemoteFile]) -> dict[str, RemoteFile]:
    if len(files) > MAX_FILES:
        raise DataError(f"the repository lists {len(files)} files, more than {MAX_FILES}: refused")
    return files


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"a size of {value!r}")
    return value


class _sense:
    """Turns what an unexpected answer breaks into one line."""

    def __init__(self, client: Client, repository: Repository) -> None:
        self._where = f"{client.endpoint} does not answer as this hub does for {repository}"

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, (KeyError, TypeError, AttributeError, ValueError)):
            raise DataError(f"{self._where} ({type(error).__name__}: {error}); check --from and --endpoint") from None
