"""What is read of a release that is repeated: its manifest, and recipes with nothing of the release's choosing left in them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from seekling.errors import CheckpointError, DataError, RecipeError, raise_all
from seekling.release import layout
from seekling.release.chain import recipe_kinds
from seekling.tree import Tree

RUN_MANIFEST = "data_manifest.json"  # of a run; a new run that finds one reads the same sources


def checked_manifest(folder: Path) -> dict[str, Any]:
    """The manifest, once it fits its schema and the stages' files are those it lists.

    Raises:
        CheckpointError: what is wrong, with the file's name.
    """
    manifest = layout.read_manifest(folder)
    raise_all(CheckpointError, [line[:300] for line in layout.manifest_problems(manifest)][:20], f"{folder / layout.MANIFEST}")
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    bad = []
    for stage in manifest["stages"]:
        if not _inside(stage["folder"]):
            raise CheckpointError(
                f"{folder / layout.MANIFEST}: a stage names the folder {stage['folder']!r}, outside the release"
            )
        for name in ("recipe.toml", RUN_MANIFEST):
            path = f"{stage['folder']}/{name}"
            there = (folder / path).is_file() and not (folder / path).is_symlink()
            if not there and (path in listed or name == "recipe.toml"):
                bad.append(f"{path} is missing; get the release again")
            elif there and path not in listed:
                bad.append(f"{path} is not in the list of release.json; get the release again")
            elif there and layout.sha256(folder / path) != listed[path]:
                bad.append(f"{path} was changed since the release was made; get the release again")
    raise_all(CheckpointError, bad, str(folder))
    return manifest


def _inside(path: str) -> bool:
    parts = path.split("/")
    return path != "" and not path.startswith("/") and "\\" not in path and ".." not in parts and "" not in parts


def safe_recipe(
    folder: Path,
    manifest: Mapping[str, Any],
    stage: Mapping[str, Any],
    runs: Mapping[str, Path],
    data: Path | None,
    base: Path | None,
) -> Tree:
    """The recipe of a stage with its outer things put in place, and none of the release's choosing left.

    Raises:
        RecipeError: an unknown verb or a recipe that cannot be read, or that names an address.
        DataError: a file is not here. CheckpointError: it was changed.
    """
    kinds = {kind.verb(): kind for kind in recipe_kinds()}
    if stage["verb"] not in kinds or stage["verb"] == "run":
        raise RecipeError(f"{stage['folder']}: there is no verb {stage['verb']!r} that trains; update Seekling")
    recipe = kinds[stage["verb"]].load(folder / stage["folder"] / "recipe.toml")
    flat = recipe.flat()
    values: dict[str, Any] = {"trackers": (), "command": "", "out": None}
    values = {name: value for name, value in values.items() if name in flat}
    for name in ("data", "eval_data"):
        if flat.get(name):
            values[name] = tuple(str(_text_file(folder, manifest, stage, str(item), data)) for item in flat[name])
    if flat.get("model"):
        values["model"] = str(_start(stage, runs, base))
    teacher = str(flat.get("teacher") or "")
    if teacher:
        values["teacher"] = str(_teacher(teacher, stage))
    no_file_tasks(flat.get("tasks") or (), str(stage["folder"]))
    return recipe.replaced(values)


def no_file_tasks(tasks: tuple[str, ...], where: str) -> None:
    """Raise RecipeError for tasks that come from files: their rewards may be programs."""
    named = [task for task in tasks if ".jsonl" in task or "/" in task]
    if named:
        raise RecipeError(
            f"{where} practised problems of the publisher's files ({named[0]}), whose rewards may be programs; nothing of a "
            "release is run: repeat this stage by hand once you have read them"
        )


def safe_story(folder: Path) -> str:
    """``story.toml`` of a release, once it is whole.

    Raises:
        CheckpointError: missing or changed. RecipeError: it cannot be read, or names files.
    """
    from seekling.train.story_recipe import StoryRecipe

    path, listed = folder / layout.STORY, {f["path"]: f["sha256"] for f in layout.read_manifest(folder)["files"]}
    if path.is_symlink() or not path.is_file():
        raise CheckpointError(f"{path} is missing; get the release again")
    if listed.get(layout.STORY) != layout.sha256(path):
        raise CheckpointError(f"{path} was changed since the release was made; get the release again")
    story = StoryRecipe.load(path)
    no_file_tasks(story.story.tasks, layout.STORY)
    return story.to_toml()


def _text_file(folder: Path, manifest: Mapping[str, Any], stage: Mapping[str, Any], name: str, data: Path | None) -> Path:
    last = Path(name).name
    listed = {f["path"]: f["sha256"] for f in manifest["files"]}
    for place in (stage["folder"], "data"):
        path = folder / place / last
        if last in ("", "..") or last.endswith(".toml") or path.is_symlink() or not path.is_file():
            continue  # never a .toml: it would declare sources of its own
        if listed.get(f"{place}/{last}") != layout.sha256(path):
            raise CheckpointError(f"{path} was changed since the release was made; get the release again")
        return path.absolute()
    if data is not None and last not in ("", "..") and (data / last).exists():
        return (data / last).absolute()
    raise DataError(f"{stage['folder']} was trained on {last!r}, which is not in the release: give its folder with --data DIR")


def _start(stage: Mapping[str, Any], runs: Mapping[str, Path], base: Path | None) -> Path:
    before = str(stage.get("starts_from") or "")
    if before in runs:
        return runs[before].absolute()
    found = base if base is not None else _pulled(before)
    if found is None or not found.exists():
        what = f"{stage['folder']} starts from {before or 'an unnamed model'}"
        raise DataError(f"{what}, which is not here: pull it, or give its folder with --base DIR")
    return found.absolute()


def _teacher(name: str, stage: Mapping[str, Any]) -> Path:
    if "://" in name:
        raise RecipeError(
            f"{stage['folder']} asked a teacher behind an address; that cannot be repeated from the release alone"
        )
    found = _pulled(name)
    if found is None:
        raise DataError(f"{stage['folder']} learned from {name}, which is not here: pull it first")
    return found


def _pulled(name: str) -> Path | None:
    from seekling.hub.names import find

    return find(name) if name else None
