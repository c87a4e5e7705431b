"""The pictures of the technical report and their captions."""

from seekling.release.sections import TITLES

FIGURES = {
    **TITLES,
    "mixture": "What it was trained on: share of the training tokens by source, coloured by licence.",
    "scores": "Held-out text: bits per byte with 95 % intervals (documents resampled), beside what knows nothing reaches.",
    "stages": "Each stage after pretraining: its score before and after, and its loss on the way.",
}


def picture(figures: dict[str, str], name: str) -> str:
    path = figures.get(name)
    return f"![{FIGURES[name]}]({path})\n\n*{FIGURES[name]}*" if path else ""
