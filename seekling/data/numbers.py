# ruff: noqa: E501 - sentences stay on one line
"""Generated pages of small numbers: counting, sums, comparing, word problems, sorting. One theme a page, so it can be learned."""

from collections.abc import Callable

from seekling.data.generate import Dice
from seekling.data.stories import BOYS, GIRLS, article

ONES = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen"
).split()
TENS = "twenty thirty forty fifty sixty seventy eighty ninety".split()
THINGS = "apples books shells stones cookies balls flowers eggs stars coins pencils nuts".split()


def in_words(n: int) -> str:
    """0 … 99 in English."""
    if n < 20:
        return ONES[n]
    return TENS[n // 10 - 2] + (f"-{ONES[n % 10]}" if n % 10 else "")


def page(dice: Dice) -> str:
    """A page of one theme."""
    return dice.one(PAGES)(dice)


def counting(dice: Dice) -> str:
    step = dice.one((1, 1, 1, 1, 2, 5, 10))
    start = dice.number(0, 30) if step == 1 else step * dice.number(0, 4)
    numbers = [start + step * i for i in range(dice.number(6, 14))]
    if dice.chance(0.25):
        numbers.reverse()
    how = f"by {in_words(step)}s " if step > 1 else ""
    show = str if dice.chance(0.6) or numbers[-1] > 99 or numbers[0] > 99 else in_words
    lead = f"Count {how}from {show(numbers[0])} to {show(numbers[-1])}:\n" if dice.chance(0.7) else ""
    return lead + dice.one((", ", " ", "\n")).join(map(show, numbers))


def sums(dice: Dice) -> str:
    kind, level = dice.one("++--x"), dice.one((9, 9, 20, 20, 99))
    lines = []
    for _ in range(dice.number(6, 12)):
        a, b = dice.number(0, level), dice.number(0, level)
        if kind == "-":
            a, b = max(a, b), min(a, b)
        if kind == "x":
            a, b = dice.number(0, 10), dice.number(0, 10)
        lines.append(f"{a} {kind} {b} = {result(a, kind, b)}")
    return "\n".join(lines)


def result(a: int, kind: str, b: int) -> int:
    return a + b if kind == "+" else a - b if kind == "-" else a * b


def sums_in_words(dice: Dice) -> str:
    lines = []
    for _ in range(dice.number(4, 8)):
        a, b = dice.number(0, 12), dice.number(0, 12)
        if dice.chance(0.5):
            lines.append(f"{in_words(a)} plus {in_words(b)} is {in_words(a + b)}.")
        else:
            a, b = max(a, b), min(a, b)
            lines.append(f"{in_words(a)} minus {in_words(b)} is {in_words(a - b)}.")
    return "\n".join(line.capitalize() for line in lines)


def table(dice: Dice) -> str:
    n = dice.number(1, 12)
    kind = dice.one("+x")
    return "\n".join(f"{i} {kind} {n} = {result(i, kind, n)}" for i in range(1, 11))


def comparing(dice: Dice) -> str:
    lines = []
    for _ in range(dice.number(5, 9)):
        a, b = dice.some(range(1, dice.one((11, 21, 101))), 2)
        if dice.chance(0.5):
            lines.append(f"{a} is {'more' if a > b else 'less'} than {b}.")
        else:
            lines.append(f"Which is {'bigger' if dice.chance(0.5) else 'more'}, {a} or {b}? {max(a, b)}.")
    return "\n".join(lines)


def neighbours(dice: Dice) -> str:
    lines = []
    for _ in range(dice.number(5, 9)):
        n = dice.number(1, 98)
        lines.append(
            dice.one((f"After {n} comes {n + 1}.", f"Before {n} comes {n - 1}.", f"Between {n - 1} and {n + 1} is {n}."))
        )
    return "\n".join(lines)


def sorting(dice: Dice) -> str:
    lines = []
    for _ in range(dice.number(4, 7)):
        numbers = dice.some(range(0, dice.one((10, 10, 50))), dice.number(3, 4))
        lines.append(" ".join(map(str, numbers)) + " -> " + " ".join(map(str, sorted(numbers))))
    return "Sort from small to big:\n" + "\n".join(lines)


def word_problem(dice: Dice) -> str:
    """One or two short problems with their sum written out."""
    return "\n\n".join(f"{question} {answer}" for question, answer in (problem(dice) for _ in range(dice.number(1, 3))))


def problem(dice: Dice) -> tuple[str, str]:
    """(question, answer that shows the sum)."""
    male = dice.chance(0.5)
    name, other = dice.one(BOYS if male else GIRLS), dice.one(GIRLS if male else BOYS)
    he, things, colour = ("He" if male else "She"), dice.one(THINGS), dice.one(("red", "blue", "green", "white"))
    a, b = dice.number(2, 12), dice.number(1, 9)
    if dice.chance(0.5):
        told = dice.one(
            (
                f"{name} has {a} {things}. {he} gets {b} more. How many {things} does {name} have now?",
                f"{name} has {a} {things} and {other} has {b}. How many {things} do they have together?",
                f"There are {a} {things} in a box. {name} puts {b} more {things} in. How many {things} are in the box?",
                f"{name} finds {a} {things} in the morning and {b} {things} in the evening. How many {things} are that?",
            )
        )
        return told, f"{a} + {b} = {a + b}. The answer is {a + b}."
    a, b = a + b, b
    told = dice.one(
        (
            f"{name} has {a} {things}. {he} gives {b} to {other}. How many {things} are left?",
            f"{name} has {a} {things}. {he} loses {b} of them. How many {things} does {name} have now?",
            f"There are {a} {things} on the table. {b} of them are {colour}. How many are not {colour}?",
            f"{name} had {a} {things} and {other} took {b} away. How many {things} does {name} still have?",
        )
    )
    return told, f"{a} - {b} = {a - b}. The answer is {a - b}."


def spelling(dice: Dice) -> str:
    words = dice.some(SPELLED, dice.number(5, 8))
    return "\n".join(f"{word}: {'-'.join(word)}, {len(word)} letters" for word in words)


SPELLED = (
    "cat dog sun moon star tree fish bird home rain snow wind book door milk bread apple house river stone green water light night "
    "happy seven three friend garden school winter summer mother father little small story mouse train horse table chair"
).split()


def letters(word: str) -> str:
    return "-".join(word)


PAGES: tuple[Callable[[Dice], str], ...] = (
    counting, counting, sums, sums, sums, sums_in_words, table, comparing, neighbours, sorting, word_problem, word_problem, spelling
)  # fmt: skip

__all__ = ["SPELLED", "article", "in_words", "letters", "page", "problem", "result"]
