"""Uploading a release with huggingface_hub, after it was seen to be whole."""

from collections.abc import Callable
from pathlib import Path

from seekling.errors import CheckpointError, MachineError, RecipeError
from seekling.hub.names import repository
from seekling.release.layout import GIT, MANIFEST, SUMS, files_of, read_manifest, sha256


def push(folder: Path, to: str, *, endpoint: str | None, private: bool, say: Callable[[str], None]) -> str:
    """Make the repository where it does not exist, upload every file in one commit, and return the page's address.

    The token is huggingface_hub's own: ``HF_TOKEN`` or ``hf auth login``.

    Raises:
        RecipeError: ``to`` is no owner/name. CheckpointError: no release, or a file of it is missing or changed.
        MachineError: the hub refused or cannot be reached.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    wanted = repository(to)
    if wanted is None or wanted.revision is not None:
        raise RecipeError(f"--to {to!r} is no OWNER/NAME")
    name = read_manifest(folder).get("name")
    whole(folder)
    api = HfApi(endpoint=endpoint, library_name="seekling")
    try:
        made = api.create_repo(to, private=private, exist_ok=True)
        say(f"uploading {name} to {made.repo_id if hasattr(made, 'repo_id') else to}")
        done = api.upload_folder(
            repo_id=to, folder_path=folder, commit_message=f"Release {name}", ignore_patterns=[f"{GIT[0]}/**", *GIT[1:]]
        )
    except (HfHubHTTPError, ValueError, OSError) as error:
        line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise MachineError(
            f"the hub did not take it: {line}; check the token (HF_TOKEN), the name and the connection"
        ) from None
    return str(getattr(done, "commit_url", "") or made)


def whole(folder: Path) -> None:
    """Compare every file with SHA256SUMS.

    Raises:
        CheckpointError: naming the first files that are missing, changed or not listed.
    """
    try:
        lines = (folder / SUMS).read_text("utf-8").splitlines()
    except OSError:
        raise CheckpointError(f"{folder} has no {SUMS}; build the release again") from None
    listed = {path: digest for digest, _, path in (line.partition("  ") for line in lines)}
    here = {p.as_posix() for p in files_of(folder)}
    bad = [f"{p} is missing" for p in listed if p not in here]
    bad += [f"{p} was changed" for p in listed if p in here and sha256(folder / p) != listed[p]]
    bad += [f"{p} is not listed" for p in sorted(here - set(listed)) if p not in (SUMS, "model.sig")]
    if bad:
        raise CheckpointError(f"{folder} is not as it was built ({'; '.join(bad[:3])}); build the release again")
    assert MANIFEST in listed
