"""``seekling release``: from a run to a folder that is a complete open release.

Everything is judged first (:mod:`seekling.release.material`), then written into a hidden sibling of ``--out``, which gets
its name
when it is whole. A build that fails or is stopped leaves nothing.
"""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import MachineError, RecipeError, SeeklingError
from seekling.release import cards, layout, paper, scores
from seekling.release.bom import write_boms
from seekling.release.chain import Stage
from seekling.release.code import write_code
from seekling.release.compliance import write_statements
from seekling.release.escape import scrubbed
from seekling.release.licences import ids_of, text_of
from seekling.release.machine_facts import this_machine
from seekling.release.material import CODE_LICENCE, TOLERANCE, Options, Release, final_of, first_losses, gather
from seekling.release.repository import git_found, make_repository
from seekling.release.sign import fingerprint, read_key, sign, write_public_key
from seekling.release.text_files import prepared_text, write_data
from seekling.release.weights import copy_checkpoints, write_weights

if TYPE_CHECKING:
    from seekling.data.prepare import Prepared
    from seekling.lm import LM

HELLO = ("Hello! Who are you?", "What is 3 plus 4?", "Tell me a story about a dog.")
SAMPLE_SOURCES, PROMPT_TOKENS, NEW_TOKENS = 6, 12, 96
SMOKE_STEPS = 5


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
        raise MachineError(f"a release needs {', '.join(missing)}: pip install seekling[release]")


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
    release.scores = evaluate(release, lm, first, prepared)
    release.samples = draw_samples(release, lm, prepared)
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
    values = {
        k: _without_paths(v) for k, v in stage.recipe.flat().items() if k in ("out", "command", "model", "data", "teacher")
    }
    (home / "recipe.toml").write_text(stage.recipe.replaced(values).to_toml(), "utf-8")
    for name in ("log.jsonl", "data_manifest.json"):
        if (stage.run / name).is_file():
            (home / name).write_text(scrubbed((stage.run / name).read_text("utf-8")), "utf-8")


def _without_paths(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_without_paths(v) for v in value)
    return scrubbed(value) if isinstance(value, str) else value


# ---- scores and samples ----------------------------------------------------------------------------------------------


def evaluate(release: Release, lm: "LM", first: Stage | None, prepared: "Prepared | None") -> list[scores.Score]:
    """Held-out text scored with the released weights, then what each later stage evaluated at its end, the last stage first."""
    import numpy as np

    found: list[scores.Score] = []
    for stage in reversed([s for s in release.chain.stages if s.verb != "pretrain"]):
        found += scores.stage_scores(stage)
    if first is not None and prepared is not None and lm.tokenizer is not None:
        if lm.tokenizer.vocab_size != prepared.tokenizer.vocab_size:
            release.notes.append("the vocabulary changed after pretraining, so held-out text was not scored again")
            return found
        counts = np.bincount(np.asarray(prepared.train.tokens, np.int64), minlength=lm.config.vocab_size)
        length = min(first.value("seq_len"), lm.config.max_position_embeddings)
        found += scores.heldout_scores(lm.model, prepared.heldout, lm.tokenizer, length, counts)
    return found


def draw_samples(release: Release, lm: "LM", prepared: "Prepared | None") -> list[dict[str, Any]]:
    """Fixed prompts: beginnings of held-out documents, and three questions where there is a chat template; seed 0."""
    from seekling.engine import Engine, Sampling

    prompts: list[tuple[str, str, Any]] = []
    tokenizer = lm.tokenizer
    if tokenizer is None:
        return []
    if prepared is not None:
        for name, stream in list(prepared.heldout.items())[:SAMPLE_SOURCES]:
            ids = [int(i) for i in stream.document(0)[: PROMPT_TOKENS + 1]]
            prompts.append((name, tokenizer.decode(ids), ids))
    if getattr(tokenizer, "chat_template", None) or (lm.path is not None and (lm.path / "chat_template.jinja").is_file()):
        prompts += [("chat", f"{text}\n", [{"role": "user", "content": text}]) for text in HELLO]
    if not prompts:
        return []
    room = lm.config.max_position_embeddings - PROMPT_TOKENS - 2
    settings = Sampling(max_tokens=max(1, min(NEW_TOKENS, room)), temperature=0.7, top_p=0.95, seed=0)
    answers = Engine(lm).generate([asked for _, _, asked in prompts], settings)
    return [
        {"source": name, "prompt": prompt, "text": answer.text, "temperature": 0.7, "top_p": 0.95, "seed": 0}
        for (name, prompt, _), answer in zip(prompts, answers, strict=True)
    ]


def write_evaluation(folder: Path, release: Release) -> None:
    """evaluation/results.json and evaluation/samples.jsonl."""
    (folder / layout.RESULTS).parent.mkdir()
    facts = {
        "model": release.name,
        "date": release.released.timestamp(),
        "git_hash": release.code.get("commit"),
        "command": evaluation_command(release),
        "device": "cpu",
        "dtype": "float32",
        "machine": this_machine(),
    }
    text = json.dumps(scores.results_json(release.scores, facts), ensure_ascii=False, indent=1, allow_nan=False)
    (folder / layout.RESULTS).write_text(text + "\n", "utf-8")
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in release.samples)
    (folder / layout.SAMPLES).write_text(lines, "utf-8")


def evaluation_command(release: Release) -> str:
    return f"seekling release {release.chain.last.run.name} --out {release.name}"


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
    markdown = scrubbed(paper.write(release, drawn))
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


def licence_text(name: str, release: Release, holder: str = "") -> str:
    """The text of a licence: as an ancestor carried it, from the publisher's LICENSES folder, or SPDX's with its holder
    filled in.

    Raises:
        LicenceError: there is none.
    """
    chain = release.chain
    for ancestor in (*chain.base_models, *chain.teachers, *chain.merged):
        if ancestor.licence == name and ancestor.text:
            return ancestor.text
    return text_of(
        name,
        (release.about.folder / layout.LICENSES, chain.last.run / layout.LICENSES),
        holder,
        release.released.year if holder else "",
    )


def write_licences(folder: Path, release: Release) -> None:
    """LICENSES/<id>.txt for every id, and LICENSE, the weights'."""
    (folder / layout.LICENSES).mkdir()
    for name in release.licence_ids():
        (folder / layout.LICENSES / f"{name}.txt").write_text(licence_text(name, release), "utf-8")
    who = release.about.producer.get("name") or f"the makers of {release.name}"
    own = [licence_text(name, release, who) for name in ids_of(release.options.licence)]
    (folder / layout.LICENSE).write_text(("\n" + "-" * 40 + "\n\n").join(own), "utf-8")


# ---- the manifest ----------------------------------------------------------------------------------------------------


def components(folder: Path, release: Release) -> list[dict[str, Any]]:
    """What is here of the Model Openness Framework's seventeen."""
    options, code = release.options, release.code
    archive = [code["archive"]]
    inside = f"seekling-{code['version']}/seekling"
    weights = "adapter_model.safetensors" if release.chain.is_adapter and release.chain.base_models else "model.safetensors"
    rows: list[tuple[str, list[str], str, str, list[str]]] = [
        ("model-architecture", [*archive, "config.json"], CODE_LICENCE, "the network in plain torch", [f"{inside}/model"]),
        ("model-parameters", [weights], options.licence, "final weights", []),
        ("technical-report", [layout.REPORT, layout.REPORT_PDF], options.documents, "", []),
        ("evaluation-results", [layout.RESULTS], options.documents, "with intervals and chance", []),
        ("model-card", [layout.CARD], options.documents, "", []),
        ("data-card", [layout.DATA_CARD], options.documents, "", []),
        ("sample-outputs", [layout.SAMPLES], options.documents, "fixed prompts, nothing chosen", []),
        ("training-code", archive, CODE_LICENCE, "", [f"{inside}/train", f"{inside}/kernels"]),
        ("inference-code", archive, CODE_LICENCE, "", [f"{inside}/engine", f"{inside}/serve"]),
        ("evaluation-code", archive, CODE_LICENCE, "", [f"{inside}/release/scores.py", f"{inside}/train/evaluate.py"]),
        (
            "supporting-tools",
            [*archive, layout.LOCK],
            CODE_LICENCE,
            "tokenizer, formats, lock file",
            [f"{inside}/text", f"{inside}/formats"],
        ),
        ("preprocessing-code", archive, CODE_LICENCE, "", [f"{inside}/data"]),
        ("research-paper", [layout.REPORT_PDF], options.documents, "the technical report is written as a paper", []),
        ("model-metadata", [s.folder for s in release.chain.stages], options.documents, "recipes, logs, optimizer state", []),
    ]
    if release.pretraining is not None:
        rows.append(("evaluation-data", [layout.HELDOUT], release.data_licence, "held-out documents", []))
    else:
        rows.append(("evaluation-data", archive, CODE_LICENCE, "seeded problems", [f"{inside}/tasks"]))
    data = [layout.DATA_MANIFEST]
    if options.with_data:
        data = [f.as_posix() for f in layout.files_of(folder) if f.parts[0] == "data" and f.suffix in (".zst", ".jsonl")]
        data = [path for path in data if path != layout.HELDOUT] or [layout.DATA_MANIFEST]
    if all(s.osaid_kind == "open" for s in release.chain.sources) and release.chain.sources:
        note = (
            "all of it" if options.with_data else "every source is public and named with version and hash; the code fetches it"
        )
        rows.append(("datasets", data, release.data_licence, note, []))
    steps = [row["path"] for row in release.checkpoints if row["path"] not in (None, ".")]
    if steps:
        rows.append(("intermediate-parameters", steps, options.licence, "with optimizer state", []))
    order = [c.key for c in layout.COMPONENTS]
    found = [
        {
            "key": key,
            "paths": paths,
            "licence": licence,
            "version": release.version,
            "note": note,
            **({"inside": inner} if inner else {}),
        }
        for key, paths, licence, note, inner in rows
    ]
    return sorted(found, key=lambda row: order.index(row["key"]))


def licence_of(path: str, release: Release) -> str:
    """The licence of one file of the release."""
    options = release.options
    if path.startswith(("code/", layout.LICENSES + "/")) or path == layout.LICENSE:
        return CODE_LICENCE if path.startswith("code/") else "LicenseRef-Licence-Text"
    if path.startswith("data/") and path.endswith((".jsonl", ".zst")):
        return release.data_licence
    model_files = (
        "checkpoints/",
        "config.json",
        "generation_config.json",
        "tokenizer",
        "chat_template",
        "adapter_",
        "special_tokens",
    )
    if path.endswith((".safetensors", ".gguf")) or path.startswith(model_files) or "/training_state/" in path:
        return options.licence
    return options.documents


def write_manifest(folder: Path, release: Release, parts: list[dict[str, Any]], key: tuple[Path, bytes] | None) -> None:
    """release.json.

    Raises:
        SeeklingError: it does not follow its schema, which would be our mistake.
    """
    files = [
        {
            "path": p.as_posix(),
            "bytes": (folder / p).stat().st_size,
            "sha256": layout.sha256(folder / p),
            "licence": licence_of(p.as_posix(), release),
        }
        for p in layout.files_of(folder)
        if p.as_posix() not in layout.UNLISTED
    ]
    p, c, chain = release.config.parameters(), release.config, release.chain
    tokenizer = folder / "tokenizer.json"
    manifest = {
        "format": layout.FORMAT,
        "name": release.name,
        "version": release.version,
        "released": release.date,
        "producer": {"name": release.producer, "contact": release.about.producer.get("contact", "")},
        "kind": "adapter" if (folder / "adapter_config.json").is_file() else "model",
        "model": {
            "family": c.model_type,
            "architecture": "transformer decoder",
            "parameters": p.total,
            "active_parameters": p.active,
            "mtp_parameters": p.mtp,
            "dtype": dtype_of(folder),
            "vocab_size": c.vocab_size,
            "context": c.max_position_embeddings,
            "tied_embeddings": c.tie_word_embeddings,
            "tokenizer_sha256": layout.sha256(tokenizer) if tokenizer.is_file() else None,
        },
        "licences": {
            "weights": release.options.licence,
            "code": CODE_LICENCE,
            "documents": release.options.documents,
            "data": release.data_licence,
        },
        "components": parts,
        "files": files,
        "stages": [stage_entry(release, stage, facts) for stage, facts in zip(chain.stages, release.stage_facts, strict=True)],
        "data": {
            "manifest": layout.DATA_MANIFEST,
            "sources": [s.to_dict() for s in chain.sources],
        },
        "evaluation": {"results": layout.RESULTS, "command": evaluation_command(release), "samples": layout.SAMPLES},
        "provenance": {
            "base_models": [a.to_dict() for a in chain.base_models],
            "teachers": [a.to_dict() for a in chain.teachers],
            "merged": [a.to_dict() for a in chain.merged],
            "relation": chain.relation,
        },
        "compute": release.compute,
        "code": {k: v for k, v in release.code.items()},
        "reproduce": {
            "command": "seekling reproduce .",
            "smoke_steps": SMOKE_STEPS,
            "tolerance": TOLERANCE,
            "machine": {**this_machine(), **release.stage_facts[0]["versions"], "threads": release.stage_facts[0]["threads"]},
        },
        "notes": release.notes,
    }
    if key is not None:
        manifest["signature"] = {
            "path": layout.SIGNATURE,
            "public_key": layout.PUBLIC_KEY,
            "public_key_sha256": fingerprint(key[1]),
        }
    problems = layout.manifest_problems(manifest)
    if problems:
        raise SeeklingError(f"the manifest came out invalid: {problems[0]}")
    (folder / layout.MANIFEST).write_text(json.dumps(manifest, ensure_ascii=False, indent=1) + "\n", "utf-8")


def stage_entry(release: Release, stage: Stage, facts: dict[str, Any]) -> dict[str, Any]:
    """A stage in release.json."""
    before: str | None = None
    if isinstance(stage.starts_from, int):
        before = release.chain.stages[stage.starts_from].folder
    elif stage.starts_from is not None:
        before = stage.starts_from
    return {
        "name": facts["run"],
        "verb": stage.verb,
        "folder": stage.folder,
        "command": facts["command"],
        "starts_from": before,
        "repeat": f"seekling {stage.verb} --recipe {stage.folder}/recipe.toml --out again-{stage.number}",
        "seed": int(facts["seed"] or 0),
        "steps": stage.steps,
        "tokens": facts["tokens"],
        "threads": facts["threads"],
        "dtype": facts["dtype"],
        "device": facts["device"],
        "seconds": facts["seconds"],
        "flops": facts["flops"],
        "watt_hours": facts["watt_hours"],
        "first_losses": first_losses(stage),
        "final": final_of(stage),
        "data_fingerprint": stage.state.get("pinned", {}).get("data"),
        "versions": facts["versions"],
    }


def dtype_of(folder: Path) -> str:
    """The type of most bytes of the weights."""
    import struct

    sizes: dict[str, int] = {}
    for path in folder.glob("*.safetensors"):
        with open(path, "rb") as file:
            header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__":
                begin, end = tensor["data_offsets"]
                sizes[tensor["dtype"]] = sizes.get(tensor["dtype"], 0) + end - begin
    names = {"F32": "float32", "BF16": "bfloat16", "F16": "float16", "F64": "float64"}
    largest = max(sizes, key=lambda k: sizes[k], default="F32")
    return names.get(largest, largest)
