"""The data card of a release: every source of every stage, with the front matter of a dataset card."""

from typing import TYPE_CHECKING, Any

from seekling.plan import count
from seekling.release.escape import inline, table
from seekling.release.licences import hub_licence

if TYPE_CHECKING:
    from seekling.release.material import Release

SIZES = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"), (10_000_000, "1M<n<10M"))


def data_card(release: "Release") -> str:
    """data/README.md, with the front matter of a dataset card."""
    from huggingface_hub import DatasetCardData

    sources = release.chain.sources
    documents = sum(s.documents or 0 for s in sources)
    size = next((name for limit, name in SIZES if documents < limit), "n>10M")
    data = DatasetCardData(
        language=release.languages,
        pretty_name=f"Training text of {release.name}",
        task_categories=["text-generation"],
        size_categories=[size],
        **hub_licence(release.data_licence if len({s.licence for s in sources}) == 1 else "LicenseRef-mixed"),
    )
    rows: list[list[object]] = [
        [
            s.name,
            s.stage,
            s.licence,
            s.osaid_kind,
            _place(s),
            _n(s.documents),
            _n(s.bytes),
            _n(s.tokens),
            "–" if s.share is None else f"{s.share:.1%}",
        ]
        for s in sources
    ]
    head = ["source", "stage", "licence", "kind", "where", "documents", "bytes", "tokens", "share"]
    text = [
        f"- **{inline(s.name)}**: {inline(s.about or 'not described')}. By {inline(s.attribution or 'not stated')}."
        for s in sources
    ]
    made = [f"- {inline(s.name)}: {inline(s.generator)}" for s in sources if s.synthetic and s.generator]
    inside = "Held-out text is in `heldout.jsonl`" if (release.pretraining is not None) else "No text is in this folder"
    inside += (
        ", all training text in `train.jsonl.zst`."
        if release.options.with_data
        else "; training text is fetched by the code (below)."
    )
    parts = [
        f"---\n{data.to_yaml().rstrip()}\n---",
        f"# Training text of {inline(release.name)}",
        f"Every source of every stage, {count(sum(s.tokens or 0 for s in sources))} tokens in all (repetitions counted). "
        f"{inside} "
        "`manifest.json` has the same for programs, with hashes. *Kind* is the Open Source AI Definition's: open, public, "
        "obtainable "
        "or unshareable.",
        table(head, rows, right=5),
        "## What it is",
        "\n".join(text),
        "## How it was got and made ready",
        PREPARED,
        "## Synthetic text",
        "\n".join(made) or "None.",
        "## People, rights and opt-outs",
        RIGHTS,
        "## Contamination",
        "Held-out documents are set apart by a hash of their text before anything is learned from them, duplicates together. "
        "No public "
        "benchmark is evaluated on unless the report says so; where a source ships a benchmark's test part, that part is "
        "left out "
        "(`exclude` in `seekling/data/sources.toml`).",
    ]
    return "\n\n".join(parts) + "\n"


PREPARED = (
    "`seekling/data/sources.toml` in the code archive declares each package with version, SHA-256, files and the filters in "
    "their order; "
    "`seekling/data/filters.py` is what they do. Archives are unpacked, never run; a changed archive is refused. Documents "
    "are split, "
    "cleaned, deduplicated, ordered by a seeded shuffle and tokenised by a byte-level BPE learned from a sample of the "
    "training part."
)
RIGHTS = (
    "No web page was crawled for this model and no user data went in. The texts were published by their packages under the "
    "licences above; "
    "personal names occur as they do in novels and encyclopaedias, and nothing was removed or added about people. Who finds "
    "a right of "
    "theirs violated may write to the contact in the model card."
)


def _n(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _place(source: Any) -> str:
    return source.url or " ".join(filter(None, (source.kind, source.where, source.version)))
