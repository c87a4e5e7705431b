"""The technical report on repeating it: exact commands and the losses that must come out."""

from typing import TYPE_CHECKING

from seekling.release.escape import fence, table
from seekling.release.layout import STORY
from seekling.release.material import FIRST_LOSSES, TOLERANCE, first_losses

if TYPE_CHECKING:
    from seekling.release.material import Release


def repeat(release: "Release", figures: dict[str, str]) -> list[str]:
    """Exact commands from this folder, and the losses that must come out."""
    commands = [
        "tar xzf " + release.code.get("archive", "code/seekling.tar.gz"),
        "pip install --require-hashes -r code/requirements.lock",
    ]
    commands.append(f"pip install --no-deps ./seekling-{release.code.get('version', '')}")
    story = release.chain.last.story is not None
    if story:  # the whole of seekling run
        commands.append("seekling pretrain --recipe stages/1-pretrain/recipe.toml --out again-1")
        commands.append(f"cp {STORY} again-1/ && seekling run --resume again-1")
    for stage in release.chain.stages if not story else ():
        model = (
            ""
            if stage.starts_from is None
            else f" --model {'again-' + str(stage.starts_from) if isinstance(stage.starts_from, int) else stage.starts_from}"
        )
        commands.append(f"seekling {stage.verb} --recipe {stage.folder}/recipe.toml{model} --out again-{stage.number}")
    losses = first_losses(release.chain.stages[0])[:5]
    typed = list(dict.fromkeys(f["command"] for f in release.stage_facts if f["command"]))
    out = ["`seekling reproduce .` does all of this and compares. By hand:", fence("\n".join(commands), "sh")]
    if typed:
        out += ["As it was typed:", fence("\n".join(typed), "sh")]
    if losses:
        out.append(
            "The first losses are "
            + ", ".join(f"{row['loss']!r}" for row in losses)
            + f" … ({FIRST_LOSSES} in release.json): equal bit for "
            f"bit on the same kind of processor with the same versions and threads, within {TOLERANCE} elsewhere."
        )
    first = release.pretraining
    if first is not None:
        v = first["report"]["versions"]
        rows: list[list[object]] = [
            [n.replace("_", " "), v[n]] for n in ("python", "torch", "numpy", "kernels", "processor", "usable_cores", "system")
        ]
        trained = first["versions"]
        rows.append(["trained with", ", ".join(f"{k} {value}" for k, value in trained.items())])
        out.append(table(["", ""], rows, right=2))
    commit = release.code.get("commit")
    if commit:
        dirty = ", with changes that are in code/changes.diff" if release.code.get("diff") else ""
        out.append(
            f"Code: Seekling {release.code['version']}, commit {commit}{dirty}; the archive holds the files as they were."
        )
    return out
