"""The project's own tasks: short questions, one right answer each, levels from easy to hard.  A new one is ten lines: see
``subtraction``.  What stands behind question and answer are worked steps, as a person would write them, for the first lessons.
"""

import random
from fractions import Fraction

from seekling.tasks.base import Problem, Task
from seekling.tasks.expression import value_of
from seekling.tasks.stories import word_problem

WORDS = (
    "apple river stone cloud garden window yellow market pencil silver bridge candle forest island kitten ladder mirror needle "
    "orange pepper rabbit saddle tiger umbrella valley winter basket copper dragon engine"
).split()
ANIMALS = {"spider": 8, "dog": 4, "hen": 2, "ant": 6, "cat": 4, "crab": 10, "goose": 2, "bee": 6, "snail": 0, "horse": 4}
CHAINS = ((2, 9), (2, 29), (3, 9), (2, 99), (3, 99), (4, 99))  # terms of a chain sum and the largest, by level
Made = tuple[str, str, str]


def addition(r: random.Random, level: int) -> Made:
    numbers = [r.randint(0, 10 ** min(level, 2) - 1) for _ in range(max(2, level))]
    said = " + ".join(map(str, numbers))
    return f"What is {said}?", str(sum(numbers)), columns(numbers) if len(numbers) == 2 else chain(numbers[0], numbers[1:])


def columns(numbers: list[int]) -> str:
    """Two numbers added digit by digit from the right, as in school."""
    (a, b), carry, out = numbers, 0, []
    for _ in range(max(len(str(a)), len(str(b)))):
        total = a % 10 + b % 10 + carry
        out.append(f"{a % 10} + {b % 10}{' + 1' if carry else ''} = {total}")
        a, b, carry = a // 10, b // 10, total // 10
    return ", ".join(out)


def chain(total: int, rest: list[int]) -> str:
    """Numbers with their signs taken one after the other."""
    out = []
    for n in rest:
        out.append(f"{total} {'-' if n < 0 else '+'} {abs(n)} = {total + n}")
        total += n
    return ", ".join(out)


def subtraction(r: random.Random, level: int) -> tuple[str, str]:
    a, b = r.randint(0, 10**level - 1), r.randint(0, 10**level - 1)
    return f"What is {a} - {b}?", str(a - b)


def multiplication(r: random.Random, level: int) -> Made:
    a, b = r.randint(0, 10 ** ((level + 1) // 2) - 1), r.randint(0, 10 ** ((level + 2) // 2) - 1 if level > 1 else 9)
    tens, ones = b // 10, b % 10
    steps = f"{a} * {10 * tens} = {10 * tens * a}, {a} * {ones} = {a * ones}" if tens else f"{a} * {b} = {a * b}"
    return f"What is {a} * {b}?", str(a * b), steps


def chain_sum(r: random.Random, level: int) -> Made:
    terms, top = CHAINS[level - 1]
    first, rest = r.randint(1, top), [r.choice((1, -1)) * r.randint(1, top) for _ in range(terms - 1)]
    said = str(first) + "".join(f" {'-' if n < 0 else '+'} {abs(n)}" for n in rest)
    return f"What is {said}?", str(first + sum(rest)), chain(first, rest)


def comparison(r: random.Random, level: int) -> Made:
    a, b = r.sample(range(10**level), 2)
    x, y = (str(n).zfill(level) for n in (a, b))
    at = next(i for i in range(level) if x[i] != y[i])  # the digits that decide, with all before them
    steps = ", ".join(f"{p} {'=' if p == q else '>' if p > q else '<'} {q}" for p, q in zip(x[: at + 1], y, strict=False))
    return f"Which number is larger, {a} or {b}?", str(max(a, b)), steps


def sorting(r: random.Random, level: int) -> Made:
    numbers = r.sample(range(10 ** min(level, 2)), level + 2)
    left, out = list(numbers), []
    while len(left) > 1:
        out.append(f"{min(left)} of {' '.join(map(str, left))}")
        left.remove(min(left))
    said = " ".join(map(str, numbers))
    return f"Sort from small to large: {said}", " ".join(map(str, sorted(numbers))), ", ".join(out)


def backwards(r: random.Random, level: int) -> Made:
    word = "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(level + 2)) if level < 3 else r.choice(WORDS)
    return f"Spell {word} backwards.", word[::-1], f"{' '.join(word)}, {' '.join(word[::-1])}"


def letters(r: random.Random, level: int) -> Made:
    words = r.sample(WORDS, level)
    letter, every = r.choice("".join(words)), "".join(words)
    counted, steps = 0, []
    for c in every:
        counted += c == letter
        steps.append(f"{c} {counted}" if c == letter else c)
    return f"How many times does the letter {letter} occur in {' '.join(words)}?", str(counted), " ".join(steps)


def legs(r: random.Random, level: int) -> Made:
    herd = [(r.randint(1, 3 * level), animal) for animal in r.sample(sorted(ANIMALS), level)]
    said = " and ".join(f"{n} {animal}{'s' * (n > 1)}" if animal != "goose" or n == 1 else f"{n} geese" for n, animal in herd)
    parts = [n * ANIMALS[animal] for n, animal in herd]
    steps = [f"{n} * {ANIMALS[animal]} = {n * ANIMALS[animal]}" for n, animal in herd]
    return f"How many legs do {said} have?", str(sum(parts)), ", ".join(steps)


def equation(r: random.Random, level: int) -> Made:
    x, a, b = r.randint(0, 10**level - 1), r.randint(1, 3 * level), r.randint(0, 10**level - 1)
    return f"Solve for x: {a} * x + {b} = {a * x + b}", str(x), f"{a * x + b} - {b} = {a * x}, {a * x} / {a} = {x}"


def shopping(r: random.Random, level: int) -> Made:
    name, things = r.choice(["Mia", "Tom", "Li", "Ana", "Sam"]), r.sample(["pens", "pears", "cups", "books", "nails"], level)
    bought = [(r.randint(2, 5 * level), r.randint(1, 4 * level), thing) for thing in things]
    said = " and ".join(f"{n} {thing} at {price} each" for n, price, thing in bought)
    steps = ", ".join(f"{n} * {price} = {n * price}" for n, price, _ in bought)
    return f"{name} buys {said}. How much does {name} pay?", str(sum(n * price for n, price, _ in bought)), steps


def countdown(r: random.Random, level: int) -> tuple[str, str]:
    numbers = [r.randint(1, 9) for _ in range(level + 1)]
    text, total = str(numbers[0]), numbers[0]
    for n in numbers[1:]:
        sign = r.choice("+-*" if level > 1 else "+-")
        text, total = f"({text} {sign} {n})", {"+": total + n, "-": total - n, "*": total * n}[sign]
    shown = sorted(numbers)
    return f"Use each of {' '.join(map(str, shown))} once with + - * / and brackets to make {total}.", text


def judge_countdown(answer: str, problem: Problem) -> bool:
    """Any expression that uses exactly the given numbers and has the wanted value."""
    words = problem.question.split(" once ")[0].removeprefix("Use each of ").split()
    goal = int(problem.question.rsplit("make ", 1)[1].rstrip("."))
    found = value_of(answer)
    return found is not None and found.value == Fraction(goal) and sorted(found.numbers) == sorted(map(int, words))


TASKS: dict[str, Task] = {
    task.name: task
    for task in (
        Task("addition", addition, levels=4),
        Task("subtraction", subtraction, levels=4),
        Task("multiplication", multiplication, levels=5),
        Task("chain_sum", chain_sum, levels=len(CHAINS)),
        Task("comparison", comparison, levels=6),
        Task("sorting", sorting, levels=6, hint="Write the numbers with spaces between them."),
        Task("backwards", backwards),
        Task("letters", letters, levels=4),
        Task("legs", legs, levels=4),
        Task("equation", equation),
        Task("shopping", shopping),
        Task("word_problem", word_problem),
        Task("countdown", countdown, judge_countdown, levels=5, hint="Write one expression."),
    )
}
