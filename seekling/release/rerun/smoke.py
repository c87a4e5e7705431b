"""Smoke reproduction: the first steps of a release as findings of ``seekling release check --smoke``."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from seekling.errors import SeeklingError
from seekling.release import layout
from seekling.release.check.finding import FAIL, NOTE, PASS, PERSON, Finding
from seekling.release.rerun.compare import DIFFERS, UNKNOWN
from seekling.release.rerun.process import Watch
from seekling.release.rerun.recipes import checked_manifest
from seekling.release.rerun.run import reproduce


def smoke_findings(folder: Path, steps: int, say: Callable[[str], None], watch: Watch) -> Iterator[Finding]:
    """Repeat the first steps of a release and say what came of it; ``steps`` 0 takes the release's own number."""
    if not (folder / layout.MANIFEST).is_file():
        text = "no release.json with a recipe and first losses: its training cannot be repeated by this program"
        yield Finding("smoke.none", PERSON, text, remedy="seekling release writes one")
        return
    try:
        wanted = steps or int(checked_manifest(folder)["reproduce"]["smoke_steps"])
        with tempfile.TemporaryDirectory(prefix="seekling-smoke-") as work:
            out = reproduce(folder, steps=max(1, wanted), work=Path(work), say=say, watch=watch)
    except SeeklingError as error:
        yield Finding(
            "smoke.run", FAIL, f"its first steps could not be repeated: {str(error).splitlines()[0]}", layout.MANIFEST
        )
        return
    for stage in out.stages:
        for c in stage.comparisons:
            verdict = FAIL if c.verdict == DIFFERS else NOTE if c.verdict == UNKNOWN else PASS
            detail = f" ({c.detail})" if c.detail else ""
            text = f"{stage.folder}: {stage.steps} steps from the declared start: {c.what} {c.verdict}{detail}"
            yield Finding("smoke.run", verdict, text, stage.folder)
    where = "the same kind of machine" if out.same_machine else f"another kind of machine ({'; '.join(out.differences[:2])})"
    yield Finding("smoke.machine", NOTE, f"repeated on {where}")
