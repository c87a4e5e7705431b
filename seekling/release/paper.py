"""The technical report of a release in Markdown (``report.md``), from which :mod:`seekling.release.pdf` sets ``report.pdf``.

It is written as a paper: abstract, the model in ten numbers, model, data, training, evaluation, samples, ablations, cost,
what did
not work, limits, how to repeat it, licences, references.
"""

from typing import TYPE_CHECKING, Any

from seekling.plan import count, hours_text
from seekling.release import cards
from seekling.release.escape import fence, inline, table
from seekling.release.headline import disk_text
from seekling.release.material import FIRST_LOSSES, TOLERANCE, eu_lines, first_losses
from seekling.release.sections import SETTINGS, TITLES, cell

if TYPE_CHECKING:
    from seekling.release.material import Release

FIGURES = {
    **TITLES,
    "mixture": "What it was trained on: share of the training tokens by source, coloured by licence.",
    "scores": "Held-out text: bits per byte with 95 % intervals (documents resampled), beside what knows nothing reaches.",
    "stages": "Each stage after pretraining: its score before and after, and its loss on the way.",
}
MODEL_NAMES = {"deepseek_v3": "DeepSeek-V3", "deepseek_v2": "DeepSeek-V2"}
REFERENCES = (
    "DeepSeek-AI. DeepSeek-V2: A strong, economical, and efficient mixture-of-experts language model. arXiv:2405.04434, 2024.",
    "DeepSeek-AI. DeepSeek-V3 technical report. arXiv:2412.19437, 2024.",
    "Wang et al. Auxiliary-loss-free load balancing strategy for mixture-of-experts. arXiv:2408.15664, 2024.",
    "Hoffmann et al. Training compute-optimal large language models. arXiv:2203.15556, 2022.",
    "Jordan et al. Muon: An optimizer for hidden layers in neural networks. 2024.",
    "White et al. The Model Openness Framework. arXiv:2403.13784, 2024.",
)


def write(release: "Release", figures: dict[str, str]) -> str:
    """The document.

    Args:
        figures: name -> path relative to the release.
    """
    parts = [
        f"# {inline(release.name)}: technical report",
        f"{'' if release.producer == 'not stated' else inline(release.producer) + ' · '}version {inline(release.version)} · "
        f"{release.date[:10]} · weights {inline(release.options.licence)}, "
        f"this report {inline(release.options.documents)}",
        "## Abstract",
        abstract(release),
        "## The model in ten numbers",
        cards.numbers(release),
        picture(figures, "loss"),
    ]
    for title, section in SECTIONS:
        body = section(release, figures)
        if body:
            parts += [f"## {title}", *body]
    return "\n\n".join(part for part in parts if part) + "\n"


def picture(figures: dict[str, str], name: str) -> str:
    path = figures.get(name)
    return f"![{FIGURES[name]}]({path})\n\n*{FIGURES[name]}*" if path else ""


def abstract(release: "Release") -> str:
    """Four sentences that every number of is further down."""
    p, chain = release.config.parameters(), release.chain
    kind = f"{MODEL_NAMES.get(release.config.model_type, release.config.model_type)}-style"
    described = release.about.model.get("description")
    start = f"{inline(described)} " if described else ""
    taught = " and ".join(f["verb"] for f in release.stage_facts)
    born = (
        f"It was trained from random weights on {count(sum(f['tokens'] or 0 for f in release.stage_facts))} tokens of "
        f"{len(chain.sources)} declared sources"
        if not chain.base_models
        else f"It descends from {inline(', '.join(a.name for a in chain.base_models))} by {taught}"
    )
    seconds = release.compute["seconds"]
    spent = (
        "" if seconds is None else f" in {hours_text(seconds / 3600)} on one {release.stage_facts[0]['device'].upper()} machine"
    )
    scored = ""
    if release.scores:
        best = release.scores[0]
        name = next(iter(best.metrics))
        beside = cards.chance_text(best, name)
        scored = f" On {inline(best.what)} it reaches {inline(cards.score_text(best, name))} {cards.NAMES.get(name, name)}"
        scored += f" ({inline(beside)})." if beside != "–" else "."
    active = f", of which {count(p.active)} work on a token" if p.active < p.total else ""
    return (
        f"{start}{inline(release.name)} is a {kind} language model of {count(p.total)} parameters{active}. "
        f"{born}{spent}.{scored} "
        "Weights, code, data information, logs and the means to check and repeat all of it are in this release."
    )


# ---- sections --------------------------------------------------------------------------------------------------------


def model(release: "Release", figures: dict[str, str]) -> list[str]:
    c = release.config
    p = c.parameters()
    rows: list[list[object]] = [
        ["layers, width", f"{c.num_hidden_layers} × {c.hidden_size}"],
        ["attention", attention_text(c)],
        ["feed-forward", feed_forward_text(c)],
        [
            "vocabulary, context",
            f"{c.vocab_size:,} tokens, {c.max_position_embeddings:,} positions (RoPE, base {c.rope_theta:,.0f})",
        ],
        ["parameters", f"{p.total:,} in all, {p.active:,} active a token" + (f", {p.mtp:,} more of MTP" if p.mtp else "")],
    ]
    out = [table(["", ""], rows, right=2)]
    if c.kv_lora_rank:
        out += [
            "**Latent attention (MLA).** Keys and values of all heads are rebuilt from one small vector a token, which alone "
            "is cached "
            "beside a rotary key that the heads share [1]:",
            r"$$\mathbf{c}_t = W^{DKV}\mathbf{h}_t,\quad \mathbf{k}_{t,i} = [\,W^{UK}_i\mathbf{c}_t;\ "
            r"\mathrm{RoPE}(W^{KR}\mathbf{h}_t)\,],"
            r"\quad \mathbf{v}_{t,i} = W^{UV}_i\mathbf{c}_t$$",
            f"With a latent of {c.kv_lora_rank} and a rotary key of {c.qk_rope_head_dim} that is "
            f"{c.kv_elements_per_token():,} numbers a "
            f"token over all layers.",
        ]
    if c.n_routed_experts:
        out += [
            f"**Experts (MoE).** {_experts(c)} A token goes to the {c.num_experts_per_tok} with the highest biased affinity; "
            f"the bias, moved "
            "against overload and not by gradient, balances them without a loss that fights learning [2, 3]:",
            r"$$\mathbf{h}' = \mathbf{h} + \mathrm{FFN}_{shared}(\mathbf{h}) + \sum_{i \in \mathrm{TopK}(s_i + b_i)} g_i\,"
            r"\mathrm{FFN}_i(\mathbf{h}),\quad s_i = \sigma(\mathbf{h}^\top \mathbf{e}_i)$$"
            if c.scoring_func == "sigmoid"
            else "",
        ]
    if c.num_nextn_predict_layers:
        out.append(
            f"**Further tokens (MTP).** {c.num_nextn_predict_layers} more "
            f"layer{'s' if c.num_nextn_predict_layers > 1 else ''} learns to "
            "predict the token after the next, which trains the trunk and can draft when serving [2]. It is not needed to "
            "use the model."
        )
    return out


def attention_text(c: Any) -> str:
    if c.kv_lora_rank:
        q = f"query latent {c.q_lora_rank}, " if c.q_lora_rank else ""
        return (
            f"MLA, {c.num_attention_heads} heads, {q}key/value latent {c.kv_lora_rank}, head {c.qk_nope_head_dim} + "
            f"{c.qk_rope_head_dim} "
            f"rotary, values {c.v_head_dim}"
        )
    return f"{c.num_attention_heads} heads over {getattr(c, 'num_key_value_heads', c.num_attention_heads)} key/value heads"


def feed_forward_text(c: Any) -> str:
    if not c.n_routed_experts:
        return f"dense SwiGLU of {c.intermediate_size}"
    dense = f"first {c.first_k_dense_replace} dense ({c.intermediate_size}), then " if c.first_k_dense_replace else ""
    routed = f"{c.n_routed_experts} routed experts of {c.moe_intermediate_size}, {c.num_experts_per_tok} a token"
    return f"{dense}{routed}, {c.n_shared_experts} shared"


def _experts(c: Any) -> str:
    shared = f" and {c.n_shared_experts} that every token visits" if c.n_shared_experts else ""
    return f"Each such layer has {c.n_routed_experts} experts{shared}."


def data(release: "Release", figures: dict[str, str]) -> list[str]:
    rows: list[list[object]] = [
        [s.name, s.stage, s.licence, s.osaid_kind, cell(s.documents), disk_text(s.bytes), cell(s.tokens), cell(s.share, ".1%")]
        for s in release.chain.sources
    ]
    described = [f"- {inline(s.name)}: {inline(s.about)}. {inline(s.attribution)}." for s in release.chain.sources if s.about]
    out = [
        "Every source is declared with origin, licence and hash before it is read; a source without a licence stops the "
        "release. The full "
        "list with files and filters is [data/manifest.json](data/manifest.json).",
        picture(figures, "mixture"),
        table(["source", "stage", "licence", "kind", "documents", "bytes", "tokens", "share"], rows, right=4),
        "\n".join(described),
    ]
    first = release.pretraining
    if first is not None and first["report"]["data"]:
        found = first["report"]["data"]
        out.append(
            f"Tokenizer: {cell(found['tokenizer']['vocab_size'])} tokens, "
            f"{inline(found['tokenizer']['about'] or 'origin not stated')}. Held "
            f"out: {cell(found['heldout']['documents'])} documents, {cell(found['heldout']['tokens'])} tokens, set apart by "
            f"a hash of the "
            "text before anything was learned; duplicates go together."
        )
        out += [f"- {inline(note)}" for note in (*found["notes"], *(f"left out: {m}" for m in found["missing"]))]
    return out


def training(release: "Release", figures: dict[str, str]) -> list[str]:
    out = list(cards.training(release))
    for facts in release.stage_facts:
        if len(release.stage_facts) > 1:
            out.append(f"### Stage {facts['number']}: {facts['verb']}")
        if "report" not in facts:
            settings = {k: v for k, v in stage_settings(release, facts["number"]).items() if v not in (None, "", ())}
            out.append(table(["setting", "value"], [[k, v] for k, v in settings.items()], right=2))
            continue
        report = facts["report"]
        rows: list[list[object]] = []
        for section in ("data", "train"):
            values = report["configuration"].get(section, {})
            told = [f"{n} {_value(values[n])}" for n in SETTINGS[section] if values.get(n) not in (None, "", (), [])]
            rows.append([section, ", ".join(told)])
        out += [table(["section", "settings"], rows, right=2)]
        out += [picture(figures, name) for name in ("optimisation", "speed", "balance", "experts")]
        trained = report["training"]
        clipped = (
            ""
            if trained["clipped_share"] is None
            else f"The gradient was clipped in {trained['clipped_share']:.0%} of the steps. "
        )
        maxvio = [f"{n} {cell(v, '.2f')}" for n, v in zip(report["routers"], trained["maxvio"], strict=False)]
        out.append(
            clipped
            + (f"MaxVio (largest load over the mean, minus one) in the last step: {', '.join(maxvio)}." if maxvio else "")
        )
    out.append(picture(figures, "stages"))
    return out


def stage_settings(release: "Release", number: int) -> dict[str, Any]:
    names = (
        "steps",
        "batch_size",
        "seq_len",
        "lr",
        "optimizer",
        "schedule",
        "lora",
        "lora_alpha",
        "tasks",
        "level",
        "problems",
        "group",
        "kl",
    )
    stage = release.chain.stages[number - 1]
    return {name: _value(stage.value(name)) for name in names if stage.value(name) is not None}


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return (
        " ".join(map(str, value))
        if isinstance(value, list | tuple)
        else f"{value:,}"
        if isinstance(value, int)
        else f"{value:g}"
        if isinstance(value, float)
        else str(value)
    )


def evaluation(release: "Release", figures: dict[str, str]) -> list[str]:
    """What the released weights reach, measured while the release was made."""
    first = release.pretraining
    logged = None if first is None else (first["final"] or {}).get("value")
    agrees = ""
    mine = next((s.metrics["bits_per_byte"][0] for s in release.scores if s.task == "heldout"), None)
    if logged is not None and mine is not None and len(release.stage_facts) == 1:
        agrees = f"The log of the run says {logged:.4f} bits per byte at its end; the files in this release give {mine:.4f}."
    return [
        "All scores are of the files in this release, computed while it was made. " + agrees,
        picture(figures, "scores"),
        cards.scores_table(release.scores),
        cards.EVALUATION_NOTE
        + " *Uniform*: every token equally likely; *token frequency*: as often as in the training text; *xz*: what a "
        "general compressor makes of the same bytes.",
    ]


def samples(release: "Release", figures: dict[str, str]) -> list[str]:
    if not release.samples:
        return ["No sample was drawn."]
    out = ["Fixed prompts, temperature 0.7, seed 0; ┃ is where the model's own words begin. Nobody chose among the answers."]
    for row in release.samples:
        out += [fence(f"{row['prompt']}┃{row['text']}")]
    return out


def ablations(release: "Release", figures: dict[str, str]) -> list[str]:
    if not release.ablations:
        return [
            "None were run for this release; one seed was trained. Differences between kinds of model are in the project's "
            "docs/results.md."
        ]
    rows: list[list[object]] = []
    for row in (
        {
            "name": f"this model ({release.name})",
            "about": "",
            "facts": release.stage_facts[-1],
            "final": release.stage_facts[-1]["final"],
        },
        *release.ablations,
    ):
        f, final = row["facts"], row["final"]
        score = "not evaluated" if final is None else f"{final['metric'].replace('_', ' ')} {final['value']:.4f}"
        rows.append([row["name"], f"{f['steps']:,}", count(f["tokens"] or 0), f["seed"], score, row["about"]])
    return [
        table(["run", "steps", "tokens", "seed", "final score", "what differs"], rows, right=9),
        "One seed each: small differences may be chance.",
    ]


def cost(release: "Release", figures: dict[str, str]) -> list[str]:
    rows: list[list[object]] = [
        [
            f"{f['number']} {f['verb']}",
            cell(f["seconds"], ",.0f"),
            cell(f["flops"], ".3g"),
            cell(f["watt_hours"], ".3g"),
            f["threads"] or "–",
        ]
        for f in release.stage_facts
    ]
    return [
        picture(figures, "time"),
        table(["stage", "seconds", "FLOP", "Wh", "threads"], rows),
        "Energy is reckoned at 10 W a core, memory and losses included; it was not measured. FLOP count the arithmetic of "
        "the model, not "
        "what the machine did.",
        *(inline(line) for line in eu_lines(release.compute)),
    ]


def did_not_work(release: "Release", figures: dict[str, str]) -> list[str]:
    """What the publisher says, and what the numbers say by themselves."""
    lines = [inline(line) for line in release.about.did_not_work]
    for facts in release.stage_facts:
        report = facts.get("report")
        skipped = [e for e in release.chain.stages[facts["number"] - 1].log.events if e.get("what") == "skipped step"]
        if skipped:
            lines.append(
                f"{len(skipped):,} steps of {facts['verb']} were skipped, the first because "
                f"{inline(skipped[0].get('why', 'unknown'))}."
            )
        if report is None:
            continue
        share = report["training"]["utilisation"]
        if share is not None and share < 0.5:
            lines.append(
                f"Training used {share:.0%} of what the machine's matrix products reached as the run began: the rest went into "
                "everything around them, or to other work on the machine."
            )
        load = report["expert_load"]
        if load:
            idle = [(name, sum(v < 0.25 for v in values), len(values)) for name, values in load["relative"].items()]
            lazy = [f"{n} of {m} in {name}" for name, n, m in idle if n]
            if lazy:
                lines.append(f"Some experts get less than a quarter of an even share of held-out tokens: {', '.join(lazy)}.")
        tokens = (facts["tokens"] or 0) / max(1, release.config.parameters().active)
        if tokens < 20:
            lines.append(
                f"It is short of data for its size: {tokens:.1f} tokens an active parameter, where about 20 balance size and "
                f"data [4]."
            )
    for score in release.scores:
        for name, (value, _, low, _) in score.metrics.items():
            earlier = (b for when, b in score.chance.items() if when.startswith(("before", "after")))
            before = next(earlier, {}).get(name)
            if (
                before is not None
                and name in ("acc", "exact_match")
                and (value <= before or (low is not None and low <= before))
            ):
                lines.append(f"{inline(score.task)} did not clearly improve: {before:.1%} before the stage, {value:.1%} after.")
            xz = score.chance.get("xz -9", {}).get(name)
            if xz is not None and value > xz:
                lines.append(
                    f"On {inline(score.task)} it predicts worse than xz compresses: {value:.3f} against {xz:.3f} bits per byte."
                )
    bits = [s for s in release.scores if "bits_per_byte" in s.chance.get("xz -9", {})]
    worse = [s.task for s in bits if s.metrics["bits_per_byte"][0] > s.chance["xz -9"]["bits_per_byte"]]
    if worse:
        lines.append(f"It predicts worse than xz compresses on {len(worse)} of {len(bits)}: {inline(', '.join(worse))}.")
    return ["\n".join(f"- {line}" for line in lines) or "Nothing that the logs or the publisher know of."]


def limits(release: "Release", figures: dict[str, str]) -> list[str]:
    return ["\n".join(f"- {inline(line)}" for line in cards.limits(release))]


def repeat(release: "Release", figures: dict[str, str]) -> list[str]:
    """Exact commands from this folder, and the losses that must come out."""
    commands = [
        "tar xzf " + release.code.get("archive", "code/seekling.tar.gz"),
        "pip install --require-hashes -r code/requirements.lock",
    ]
    commands.append(f"pip install --no-deps ./seekling-{release.code.get('version', '')}")
    for stage in release.chain.stages:
        model = (
            ""
            if stage.starts_from is None
            else f" --model {'again-' + str(stage.starts_from) if isinstance(stage.starts_from, int) else stage.starts_from}"
        )
        commands.append(f"seekling {stage.verb} --recipe {stage.folder}/recipe.toml{model} --out again-{stage.number}")
    losses = first_losses(release.chain.stages[0])[:5]
    typed = [f["command"] for f in release.stage_facts if f["command"]]
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


def licences(release: "Release", figures: dict[str, str]) -> list[str]:
    return cards.origin(release)


def references(release: "Release", figures: dict[str, str]) -> list[str]:
    return ["\n".join(f"{i}. {text}" for i, text in enumerate(REFERENCES, 1))]


SECTIONS = (
    ("Model", model),
    ("Data", data),
    ("Training", training),
    ("Evaluation", evaluation),
    ("Samples", samples),
    ("Ablations", ablations),
    ("Cost, energy and the EU's thresholds", cost),
    ("What did not work", did_not_work),
    ("What this model cannot do", limits),
    ("Repeat it", repeat),
    ("Licences and origin", licences),
    ("References", references),
)
