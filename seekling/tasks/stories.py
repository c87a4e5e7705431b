"""Word problems from templates, after the manner of grade-school sets: one to three steps, numbers drawn, answers exact."""

import random

NAMES = ("Mia", "Tom", "Li", "Ana", "Sam", "Noor", "Ken", "Eva")
THINGS = ("apples", "stamps", "shells", "marbles", "cards", "cookies", "stickers", "coins")


def word_problem(r: random.Random, level: int) -> tuple[str, str, str]:
    """(question, answer, steps) with ``level`` steps of reckoning."""
    return r.choice((ONE, TWO, THREE)[level - 1])(r)


def _got(r: random.Random) -> tuple[str, str, str]:
    (name, thing), a, b = (r.choice(NAMES), r.choice(THINGS)), r.randint(2, 40), r.randint(2, 40)
    return (
        f"{name} has {a} {thing} and gets {b} more. How many {thing} does {name} have now?",
        str(a + b),
        f"{a} + {b} = {a + b}",
    )


def _gave(r: random.Random) -> tuple[str, str, str]:
    (name, other), thing, a = r.sample(NAMES, 2), r.choice(THINGS), r.randint(5, 60)
    b = r.randint(1, a)
    return f"{name} has {a} {thing} and gives {b} to {other}. How many are left?", str(a - b), f"{a} - {b} = {a - b}"


def _boxes(r: random.Random) -> tuple[str, str, str]:
    thing, a, b = r.choice(THINGS), r.randint(2, 9), r.randint(2, 12)
    return f"There are {a} boxes with {b} {thing} each. How many {thing} are there?", str(a * b), f"{a} * {b} = {a * b}"


def _shared(r: random.Random) -> tuple[str, str, str]:
    name, thing, n, each = r.choice(NAMES), r.choice(THINGS), r.randint(2, 9), r.randint(2, 12)
    said = f"{name} shares {n * each} {thing} evenly among {n} friends. How many does each friend get?"
    return said, str(each), f"{n * each} / {n} = {each}"


def _bought_and_ate(r: random.Random) -> tuple[str, str, str]:
    name, thing, n, each = r.choice(NAMES), r.choice(THINGS), r.randint(2, 6), r.randint(3, 9)
    gone = r.randint(1, n * each)
    said = f"{name} opens {n} bags of {each} {thing} each and loses {gone} of them. How many {thing} are left?"
    return said, str(n * each - gone), f"{n} * {each} = {n * each}, {n * each} - {gone} = {n * each - gone}"


def _twice(r: random.Random) -> tuple[str, str, str]:
    (name, other), thing, a, k = r.sample(NAMES, 2), r.choice(THINGS), r.randint(2, 15), r.randint(2, 5)
    said = f"{name} has {a} {thing}. {other} has {k} times as many. How many do they have together?"
    return said, str(a + k * a), f"{k} * {a} = {k * a}, {a} + {k * a} = {a + k * a}"


def _left_each(r: random.Random) -> tuple[str, str, str]:
    name, thing, n, each, gone = r.choice(NAMES), r.choice(THINGS), r.randint(2, 6), r.randint(2, 9), r.randint(1, 9)
    start = n * each + gone
    said = f"{name} has {start} {thing}, keeps {gone} and shares the rest evenly among {n} friends. How many does each get?"
    return said, str(each), f"{start} - {gone} = {n * each}, {n * each} / {n} = {each}"


def _week(r: random.Random) -> tuple[str, str, str]:
    name, price, days, spent, have = r.choice(NAMES), r.randint(2, 9), r.randint(2, 7), r.randint(1, 12), r.randint(1, 20)
    earned = price * days
    spent = min(spent, earned + have)
    said = (
        f"{name} has {have} coins, earns {price} coins a day for {days} days and then spends {spent}. "
        f"How many coins does {name} have in the end?"
    )
    steps = f"{price} * {days} = {earned}, {have} + {earned} = {have + earned}, {have + earned} - {spent} = "
    return said, str(have + earned - spent), steps + str(have + earned - spent)


def _rows(r: random.Random) -> tuple[str, str, str]:
    thing, a, b, c, d = r.choice(THINGS), r.randint(2, 6), r.randint(2, 9), r.randint(2, 6), r.randint(2, 9)
    said = f"One shelf has {a} rows of {b} {thing}, another has {c} rows of {d}. How many {thing} are on both shelves?"
    return said, str(a * b + c * d), f"{a} * {b} = {a * b}, {c} * {d} = {c * d}, {a * b} + {c * d} = {a * b + c * d}"


ONE = (_got, _gave, _boxes, _shared)
TWO = (_bought_and_ate, _twice, _left_each)
THREE = (_week, _rows)
