"""The model card of a release with Hugging Face front matter, and how to upload it all."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from seekling.errors import SeeklingError
from seekling.plan import count
from seekling.release.chain import WORDS
from seekling.release.data_card import data_card
from seekling.release.escape import code, fence, inline, table
from seekling.release.layout import CARD, DATA_CARD, EU_SUMMARY, LABELLING, MANIFEST, REPORT, REPORT_PDF, RESULTS, SUMS, UPLOAD
from seekling.release.licences import hub_licence
from seekling.release.limits import ability
from seekling.release.material import CODE_LICENCE, eu_lines
from seekling.release.score_table import NAMES, score_text, scores_table

if TYPE_CHECKING:
    from seekling.release.material import Release

SAMPLES_SHOWN = 4


def write_cards(folder: Path, release: "Release") -> None:
    """README.md, data/README.md and UPLOAD.md.

    Raises:
        SeeklingError: the front matter does not read back as it was meant, which would be our mistake.
    """
    card = model_card(release)
    check_front_matter(card, release)
    (folder / CARD).write_text(card, "utf-8")
    (folder / DATA_CARD).write_text(data_card(release), "utf-8")
    (folder / UPLOAD).write_text(upload_text(release), "utf-8")


# ---- the model card --------------------------------------------------------------------------------------------------


def front_matter(release: "Release") -> Any:
    """The card's metadata as huggingface_hub's ModelCardData."""
    from huggingface_hub import EvalResult, ModelCardData

    chain = release.chain
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type="seekling",
            dataset_name=score.task,
            dataset_config=score.task,  # else the hub takes all scores for one data set's
            metric_type=NAMES.get(name, name),
            metric_value=round(value, 6),
            metric_name=f"{NAMES.get(name, name)} ({score.what})",
        )
        for score in release.scores
        for name, (value, *_) in score.metrics.items()
    ]
    tags = [
        "seekling",
        release.config.model_type,
        *(["moe"] if release.config.n_routed_experts else []),
        "open-source-ai",
        chain.last.verb,
    ]
    base = [a.name for a in chain.base_models]
    extra: dict[str, Any] = {"base_model_relation": chain.relation} if chain.relation else {}
    datasets = sorted({s.where for s in chain.sources if s.kind == "hub"})
    return ModelCardData(
        language=release.languages,
        library_name="peft" if chain.stays_adapter else "transformers",
        pipeline_tag="text-generation",
        tags=list(dict.fromkeys(tags)),
        base_model=base or None,
        datasets=datasets or None,
        model_name=release.name,
        eval_results=results,
        **hub_licence(release.options.licence),
        **extra,
    )


def check_front_matter(card: str, release: "Release") -> None:
    """Read the card back with huggingface_hub and compare what must not be lost."""
    from huggingface_hub import ModelCard

    try:
        data: Any = ModelCard(card).data
    except ValueError as error:
        raise SeeklingError(f"the model card's front matter came out invalid: {error}") from None
    wanted = hub_licence(release.options.licence)["license"]
    if data.license != wanted or len(data.eval_results or []) != sum(len(s.metrics) for s in release.scores):
        raise SeeklingError("the model card's front matter does not read back as it was written")


def model_card(release: "Release") -> str:
    """README.md."""
    p, about = release.config.parameters(), release.about.model
    described = about.get("description") or (
        f"A {release.config.model_type} language model of {count(p.total)} parameters ({count(p.active)} active a token), "
        f"released with its training data, code, logs and this project's checks."
    )
    parts = [f"---\n{front_matter(release).to_yaml().rstrip()}\n---", f"# {inline(release.name)}", inline(described)]
    parts.append(
        f"[Technical report]({REPORT}) ([PDF]({REPORT_PDF})) · [data card]({DATA_CARD}) · [evaluation results]({RESULTS}) · "
        f"[manifest]({MANIFEST}) · [licence](LICENSE)"
    )
    parts += ["## In numbers", numbers(release)]
    parts += ["## Use", inline(about.get("use") or DEFAULT_USE), *how_to_use(release)]
    parts += ["## Limits, bias and risk", "\n".join(f"- {inline(line)}" for line in limits(release))]
    parts += ["## Training", *training(release)]
    parts += ["## Evaluation", scores_table(release.scores), EVALUATION_NOTE]
    parts += [
        "## Samples",
        *samples(release.samples[:SAMPLES_SHOWN]),
        "Prompts were fixed beforehand; nobody chose among the answers.",
    ]
    parts += ["## Cost", *cost(release)]
    parts += ["## Licences and origin", *origin(release)]
    parts += ["## Check it", *check(release)]
    who = release.about.producer
    contact = f": {inline(who['contact'])}" if who.get("contact") else ""
    parts += ["## Contact", f"{inline(release.producer)}{contact}"]
    return "\n\n".join(part for part in parts if part) + "\n"


DEFAULT_USE = (
    "For study and teaching: to see how such a model is trained, changed, served and released. Not for decisions about "
    "people, not "
    "as a source of facts."
)
EVALUATION_NOTE = (
    "Brackets are 95 % intervals (documents resampled; Wilson for problems). Lower bits per byte are better; they do not "
    "depend on "
    "the tokenizer and compare models on the same text only."
)


def numbers(release: "Release") -> str:
    """The ten numbers where the whole training is ours, else what is known."""
    first = release.pretraining
    if first is not None and len(release.stage_facts) == 1:
        rows: list[list[object]] = [[row["name"], row["text"]] for row in first["report"]["ten_numbers"]]
        return table(["", ""], rows, right=2)
    return table(["", ""], [[name, text] for name, text in release_numbers(release)], right=2)


def release_numbers(release: "Release") -> list[tuple[str, str]]:
    """Ten rows over all stages."""
    from seekling.plan import hours_text

    p, c = release.config.parameters(), release.compute
    tokens = sum(f["tokens"] or 0 for f in release.stage_facts)
    best = release.scores[0] if release.scores else None
    said = "no score" if best is None else f"{score_text(best, next(iter(best.metrics)))} ({best.task})"
    solved = [f"{score_text(s, 'exact_match')} of {s.task}" for s in release.scores if "exact_match" in s.metrics]
    whole = next((s for s in release.scores if "bits_per_byte" in s.metrics), None)
    shares = ", ".join(f"{count(f['tokens'] or 0)} in {WORDS[f['verb']].split(' (')[0]}" for f in release.stage_facts)
    rows = [
        ("parameters", count(p.total) + (f" (and {count(p.mtp)} of MTP, used only while training)" if p.mtp else "")),
        ("active a token", f"{count(p.active)} ({p.active / p.total:.0%} of all)"),
        ("training tokens", f"{count(tokens)} ({shares})"),
        ("unseen problems solved", "; ".join(solved)),
        ("held-out text", "" if whole is None else f"{score_text(whole, 'bits_per_byte')} bits per byte after all stages"),
        ("evaluation", said if not solved and whole is None else ""),
        ("training time", "not in the log" if c["seconds"] is None else f"{hours_text(c['seconds'] / 3600)} of all stages"),
        ("arithmetic", f"{c['own_flops']:.3g} FLOP"),
        ("context", f"{release.config.max_position_embeddings:,} tokens, a vocabulary of {release.config.vocab_size:,}"),
        ("cache a token", f"{2 * release.config.kv_elements_per_token():,} bytes in bfloat16"),
        (
            "energy",
            "not estimated" if c["watt_hours"] is None else f"about {c['watt_hours']:.3g} Wh (assumed wattage; not measured)",
        ),
        ("weights", f"{release.options.licence}; code {CODE_LICENCE}, documents {release.options.documents}"),
    ]
    return [row for row in rows if row[1]][:10]


def how_to_use(release: "Release") -> list[str]:
    """Commands that really work with this folder."""
    if release.chain.stays_adapter:
        base = release.chain.base_models[0].name if release.chain.base_models else "BASE"
        return [fence(f"seekling merge {base} . --out merged\nseekling chat merged", "sh")]
    python = (
        "from transformers import AutoModelForCausalLM, AutoTokenizer\n\n"
        'tokenizer = AutoTokenizer.from_pretrained(".")\nmodel = AutoModelForCausalLM.from_pretrained(".")'
    )
    return [
        fence("seekling chat .\nseekling serve .", "sh"),
        "With transformers, no remote code needed:",
        fence(python, "python"),
    ]


OF_A_BASE = ("It is a base model", "The models in sft/")  # what a run's own report says of its base


def limits(release: "Release") -> list[str]:
    """What it cannot do, over all stages."""
    first = release.pretraining
    lines = list(first["report"]["limits"]) if first is not None else [ability(release.config.parameters().total)]
    if len(release.stage_facts) > 1 or first is None:
        lines = [line for line in lines if not line.startswith(OF_A_BASE)]
        stages = " and ".join(WORDS[f["verb"]] for f in release.stage_facts if f["verb"] != "pretrain")
        lines.append(
            f"It was taught by {stages}, on what the data card lists and nothing else: outside that it got no "
            "better. There was no safety training: it does not know when to refuse, or that it does not know."
        )
    return lines


def training(release: "Release") -> list[str]:
    rows: list[list[object]] = [
        [f["number"], WORDS[f["verb"]], _steps_text(f), count(f["tokens"] or 0), f["seed"], f["dtype"] or "–", _final_text(f)]
        for f in release.stage_facts
    ]
    start = "random weights"
    if release.chain.base_models:
        start = ", ".join(a.name for a in release.chain.base_models)
    return [
        f"Started from {inline(start)}. Every stage's recipe and log are in `stages/`.",
        table(["stage", "what", "steps", "tokens", "seed", "dtype", "final score"], rows, right=2),
    ]


def _steps_text(facts: dict[str, Any]) -> str:
    """Steps done, of how many where enough was learned before."""
    done, planned = facts["steps"], facts["planned"]
    return f"{done:,}" if done >= planned else f"{done:,} of {planned:,}"


def _final_text(facts: dict[str, Any]) -> str:
    final = facts["final"]
    names = {"bits_per_byte": "bits per byte", "ce": "cross-entropy"}
    if final is None:
        return "not evaluated"
    if final["metric"] == "accuracy":
        return f"{final['value']:.1%} right"
    return f"{names.get(final['metric'], final['metric'])} {final['value']:.4g}"


def samples(rows: list[dict[str, Any]]) -> list[str]:
    return [fence(f"{row['prompt']}┃{row['text']}") for row in rows] or ["No sample was drawn."]


def cost(release: "Release") -> list[str]:
    c = release.compute
    time = "not known" if c["seconds"] is None else f"{c['seconds']:,.0f} s of wall time"
    energy = (
        "not estimated" if c["watt_hours"] is None else f"about {c['watt_hours']:.3g} Wh (10 W a core assumed; not measured)"
    )
    return [f"{time}, {c['own_flops']:.3g} FLOP, {energy}.", *(inline(line) for line in eu_lines(c))]


def origin(release: "Release") -> list[str]:
    """Licences by component, ancestors, teachers."""
    chain = release.chain
    rows: list[list[object]] = [
        ["weights", release.options.licence],
        ["code", "MIT"],
        ["report, cards", release.options.documents],
        ["training text", release.data_licence],
    ]
    out = [
        table(["component", "licence"], rows, right=2),
        "The texts are in `LICENSES/`. Nobody's licence is changed: text keeps its own.",
    ]
    for role, models in (("Base model", chain.base_models), ("Teacher", chain.teachers), ("Merged in", chain.merged)):
        out += [f"- {role}: {inline(a.name)}, {inline(a.licence or 'a run of ours, part of this release')}" for a in models]
    return out


def check(release: "Release") -> list[str]:
    commands = [f"sha256sum -c {SUMS}", "seekling release check .", "seekling reproduce ."]
    if release.options.key:
        commands.append("model_signing verify key . --signature model.sig --public_key model.pub")
    lines = [fence("\n".join(commands), "sh")]
    lines.append(f"[EU summary of training content]({EU_SUMMARY}) · [labelling statement (China)]({LABELLING})")
    return lines


# ---- uploading -------------------------------------------------------------------------------------------------------


def upload_text(release: "Release") -> str:
    """UPLOAD.md."""
    name = release.name
    remote = (
        f"git remote add origin git@gitee.com:OWNER/{name}.git  # or git@github.com:OWNER/{name}.git\ngit push -u origin main"
    )
    return f"""# Putting this release on a hub

Nothing here was uploaded by anybody but you. `OWNER` is your account. Check the folder first:

{fence("seekling release check . && sha256sum -c SHA256SUMS", "sh")}

## Hugging Face

{fence(f"seekling release push . --to OWNER/{name}", "sh")}

needs a token with write access in `HF_TOKEN` (or `hf auth login`), and is the same as `hf upload OWNER/{name} .`

## ModelScope

{fence(f"pip install modelscope && modelscope login --token TOKEN{chr(10)}modelscope upload OWNER/{name} .", "sh")}

## Gitee, GitHub or any Git host with LFS

With `--git` this folder is a Git repository whose weights are LFS files (`.gitattributes`); without it, run
`git init && git lfs install && git lfs track "*.safetensors" "*.gguf" "*.zst"` first. Then:

{fence(remote, "sh")}

GitHub takes files of up to 2 GB through LFS, Gitee asks for LFS to be switched on for the repository.

## What stays true after upload

{code("SHA256SUMS")} and the signature cover every file but themselves. A hub that adds or rewrites files (`.gitattributes`)
does not touch the listed ones; the signature ignores Git's own.
"""
