"""The project's own tasks: short questions, one right answer each, three levels.  A new one is ten lines: see ``addition``."""

import difflib
import random
from fractions import Fraction

from seekling.errors import RecipeError
from seekling.tasks.base import Problem, Task
from seekling.tasks.expression import value_of

WORDS = (
    "apple river stone cloud garden window yellow market pencil silver bridge candle forest island kitten ladder mirror needle "
    "orange pepper rabbit saddle tiger umbrella valley winter basket copper dragon engine"
).split()
ANIMALS = {"spider": 8, "dog": 4, "hen": 2, "ant": 6, "cat": 4, "crab": 10, "goose": 2, "bee": 6, "snail": 0, "horse": 4}


def addition(r: random.Random, level: int) -> tuple[str, str]:
    numbers = [r.randint(0, 10 ** min(level, 2) - 1) for _ in range(max(2, level))]
    return f"What is {' + '.join(map(str, numbers))}?", str(sum(numbers))


def subtraction(r: random.Random, level: int) -> tuple[str, str]:
    a, b = r.randint(0, 10**level - 1), r.randint(0, 10**level - 1)
    return f"What is {a} - {b}?", str(a - b)


def multiplication(r: random.Random, level: int) -> tuple[str, str]:
    a, b = r.randint(0, 10 ** ((level + 1) // 2) - 1), r.randint(0, 10 ** ((level + 2) // 2) - 1 if level > 1 else 9)
    return f"What is {a} * {b}?", str(a * b)


def chain_sum(r: random.Random, level: int) -> tuple[str, str]:
    out, total = str(first := r.randint(1, 10**level - 1)), first
    for _ in range(level):
        step = r.randint(1, 10**level - 1)
        sign = r.choice("+-")
        out += f" {sign} {step}"
        total += step if sign == "+" else -step
    return f"What is {out}?", str(total)


def comparison(r: random.Random, level: int) -> tuple[str, str]:
    a, b = r.sample(range(10**level), 2)
    return f"Which number is larger, {a} or {b}?", str(max(a, b))


def sorting(r: random.Random, level: int) -> tuple[str, str]:
    numbers = r.sample(range(10 ** min(level, 2)), level + 2)
    return f"Sort from small to large: {' '.join(map(str, numbers))}", " ".join(map(str, sorted(numbers)))


def backwards(r: random.Random, level: int) -> tuple[str, str]:
    word = "".join(r.choice("abcdefghijklmnopqrstuvwxyz") for _ in range(level + 2)) if level < 3 else r.choice(WORDS)
    return f"Spell {word} backwards.", word[::-1]


def letters(r: random.Random, level: int) -> tuple[str, str]:
    words = r.sample(WORDS, level)
    letter = r.choice("".join(words))
    return f"How many times does the letter {letter} occur in {' '.join(words)}?", str("".join(words).count(letter))


def legs(r: random.Random, level: int) -> tuple[str, str]:
    herd = [(r.randint(1, 3 * level), animal) for animal in r.sample(sorted(ANIMALS), level)]
    said = " and ".join(f"{n} {animal}{'s' * (n > 1)}" if animal != "goose" or n == 1 else f"{n} geese" for n, animal in herd)
    return f"How many legs do {said} have?", str(sum(n * ANIMALS[animal] for n, animal in herd))


def equation(r: random.Random, level: int) -> tuple[str, str]:
    x, a, b = r.randint(0, 10**level - 1), r.randint(1, 3 * level), r.randint(0, 10**level - 1)
    return f"Solve for x: {a} * x + {b} = {a * x + b}", str(x)


def shopping(r: random.Random, level: int) -> tuple[str, str]:
    name, things = r.choice(["Mia", "Tom", "Li", "Ana", "Sam"]), r.sample(["pens", "pears", "cups", "books", "nails"], level)
    bought = [(r.randint(2, 5 * level), r.randint(1, 4 * level), thing) for thing in things]
    said = " and ".join(f"{n} {thing} at {price} each" for n, price, thing in bought)
    return f"{name} buys {said}. How much does {name} pay?", str(sum(n * price for n, price, _ in bought))


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
        Task("addition", addition),
        Task("subtraction", subtraction),
        Task("multiplication", multiplication),
        Task("chain_sum", chain_sum),
        Task("comparison", comparison),
        Task("sorting", sorting, hint="Write the numbers with spaces between them."),
        Task("backwards", backwards),
        Task("letters", letters),
        Task("legs", legs),
        Task("equation", equation),
        Task("shopping", shopping),
        Task("countdown", countdown, judge_countdown, hint="Write one expression."),
    )
}


def get_task(name: str) -> Task:
    """A task by its name. Raises RecipeError with the names there are."""
    if name in TASKS:
        return TASKS[name]
    near = difflib.get_close_matches(name, TASKS, n=1)
    hint = f"did you mean {near[0]}?" if near else f"there are {', '.join(TASKS)}"
    raise RecipeError(f"no task is called {name!r}; {hint}")
