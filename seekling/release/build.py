"""``seekling release``: from a run to a folder that is a complete open release.

Everything is judged first (:mod:`seekling.release.material`), then written into a hidden sibling of ``--out``, which gets
its name
when it is whole. A build that fails or is stopped leaves nothing.
"""

import errno
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from seekling.errors import MachineError, RecipeError
from seekling.release import cards, layout
from seekling.release.bom import write_boms
from seekling.release.chain import STORY, Stage
from seekling.release.code import write_code
from seekling.release.compliance import write_statements
from seekling.release.escape import scrubbed
from seekling.release.evaluating import evaluate, write_evaluation
from seekling.release.licence_files import licence_text, write_licences
from seekling.release.manifest import components, write_manifest
from seekling.release.material import Options, Release, gather
from seekling.release.paper import document
from seekling.release.repository import git_found, make_repository
from seekling.release.sign import read_key, sign, write_public_key
from seekling.release.text_files import prepared_text, write_data
from seekling.release.weights import copy_checkpoints, write_weights
from seekling.train.story_recipe import StoryRecipe


def build(run: str | Path, out: str | Path, options: Options, say: Callable[[str], None] = print) -> Release:
    """Write the release of ``run`` to ``out``.

    Raises:
        RecipeError, CheckpointError, LicenceError, MachineError: what is wrong, before anything is written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RecipeError(f"--out {out} exists and is not empty; give a new folder")
    installed()
    key = read_key(options.key) if options.key else None
    if options.git:
        git_found()
    release = gather(run, options, say)
    for name in release.licence_ids():
        licence_text(name, release)
    part = out.parent / f".unfinished-{out.name}.{os.getpid()}"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        _fill(part, release, key, say)
        if out.exists():
            out.rmdir()
        os.replace(part, out)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise MachineError(f"--out {out}: {error.strerror}; free some space, or give an --out on another disk") from None
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return release


def installed() -> None:
    """Raise MachineError where a package of the release extra is missing, all of them named."""
    from importlib.util import find_spec

    needed = {
        "fpdf": "fpdf2",
        "jsonschema": "jsonschema",
        "cyclonedx": "cyclonedx-python-lib",
        "spdx_python_model": "spdx-python-model",
    }
    missing = [package for module, package in needed.items() if find_spec(module) is None]
    if missing:
        raise MachineError(f"a release needs {', '.join(missing)}: pip install 'seekling[release]'")


def _fill(folder: Path, release: Release, key: tuple[Path, bytes] | None, say: Callable[[str], None]) -> None:
    """Every file, in the order in which one needs another."""
    from seekling.lm import load

    write_weights(folder, release, say)
    for stage in release.chain.stages:
        write_stage(folder, stage)
    release.checkpoints = copy_checkpoints(folder, release, say)
    first = next((s for s in release.chain.stages if s.verb == "pretrain"), None)
    prepared = prepared_text(first, say) if first is not None else None
    write_data(folder, release, prepared, say)
    lm = load(release.chain.weights if (folder / "adapter_config.json").exists() else folder)
    say("evaluating the released weights")
    evaluate(release, lm, first, prepared)
    code = write_code(folder, offline=release.options.offline, say=say)
    release.notes += code.pop("notes")
    release.code = code
    write_evaluation(folder, release)
    say("drawing, writing the report and the cards")
    write_report(folder, release)
    if key is not None:
        write_public_key(folder, key[1])
    write_licences(folder, release)
    cards.write_cards(folder, release)
    parts = components(folder, release)
    write_statements(folder, release, parts)
    write_boms(folder, release)
    write_manifest(folder, release, parts, key)
    (folder / layout.SUMS).write_text(layout.sums_text(folder), "utf-8")
    if key is not None:
        say("signing")
        sign(folder, key[0])
    if release.options.git:
        say("making the Git repository")
        make_repository(folder, release)


# ---- stages ----------------------------------------------------------------------------------------------------------


def write_stage(folder: Path, stage: Stage) -> None:
    """``stages/<n>-<verb>/``: the recipe without this machine's paths, the log, the data manifest, text files that it read."""
    home = folder / stage.folder
    home.mkdir(parents=True)
    (home / "recipe.toml").write_text(without_paths(stage.recipe).to_toml(), "utf-8")
    for name in ("log.jsonl", "data_manifest.json"):
        if (stage.run / name).is_file():
            (home / name).write_text(scrubbed((stage.run / name).read_text("utf-8")), "utf-8")
    if stage.story is not None and not (folder / layout.STORY).exists():
        story = without_paths(StoryRecipe.load(stage.story / STORY))
        (folder / layout.STORY).write_text(story.to_toml(), "utf-8")


NAMING = ("out", "command", "model", "data", "teacher", "tasks")  # fields that may hold a path


def without_paths(recipe: Any) -> Any:
    """A recipe that names files by their last part only."""
    return recipe.replaced({name: _last_parts(value) for name, value in recipe.flat().items() if name in NAMING})


def _last_parts(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_last_parts(v) for v in value)
    if not isinstance(value, str):
        return value
    file, jsonl, reward = value.partition(".jsonl:")  # of a task: problems and the file of their reward
    return scrubbed(file) + jsonl + scrubbed(reward)


# ---- documents -------------------------------------------------------------------------------------------------------


def write_report(folder: Path, release: Release) -> None:
    """report.md, report.json, report.pdf and their figures."""
    from seekling.release import figures, figures_release
    from seekling.release.facts import open_run
    from seekling.release.pdf import write_pdf
    from seekling.train.log import plain

    drawn: dict[str, str] = {}
    for stage, facts in zip(release.chain.stages, release.stage_facts, strict=True):
        if "report" in facts:
            report = facts["report"]
            for key in ("typed", "command"):
                report["repeat"][key] = scrubbed(report["repeat"][key] or "") or None
            drawn |= figures.draw(open_run(stage.run), report, folder / layout.FIGURES)
        facts["command"] = scrubbed(facts["command"])
    drawn |= figures_release.draw(release, folder / layout.FIGURES)
    markdown = scrubbed(document.write(release, drawn))
    (folder / layout.REPORT).write_text(markdown, "utf-8")
    facts_json = {
        "format": 1,
        "name": release.name,
        "version": release.version,
        "stages": release.stage_facts,
        "compute": release.compute,
    }
    text = json.dumps(plain(facts_json), ensure_ascii=False, allow_nan=False, indent=1)
    (folder / layout.REPORT_JSON).write_text(scrubbed(text) + "\n", "utf-8")
    first = release.pretraining
    if first is not None and len(release.stage_facts) == 1:
        numbers = [(row["name"], row["text"]) for row in first["report"]["ten_numbers"]]
    else:
        numbers = cards.release_numbers(release)
    title = f"{release.name}: technical report"
    write_pdf(
        markdown, folder / layout.REPORT_PDF, folder, numbers, title=title, author=release.producer, date=release.released
    )
