"""Tasks of the package reasoning-gym (``pip install 'seekling[gym]'``) by ``rg:NAME``, judged strictly.

Its own scorers give partial credit for a right answer inside a long one, and some raise on junk.  Here an answer is right only
where the scorer says exactly 1.0 and the answer is hardly longer than the known one.  Tasks whose scorer pays for wrong answers
or that are half guessed right by chance are not in the list.
"""

import random
from typing import Any

from seekling.errors import RecipeError
from seekling.tasks.base import LONGER, Problem, Task

ALLOWED = (
    "basic_arithmetic", "base_conversion", "bitwise_arithmetic", "caesar_cipher", "calendar_arithmetic", "chain_sum",
    "complex_arithmetic", "count_bits", "count_primes", "countdown", "decimal_arithmetic", "decimal_chain_sum", "dice",
    "fraction_simplification", "gcd",
    "group_anagrams", "isomorphic_strings", "lcm", "leg_counting", "letter_counting", "letter_jumble", "needle_haystack",
    "number_filtering", "number_sorting", "number_sequence", "polynomial_equations",
    "power_function", "prime_factorization", "products",
    "rotate_matrix", "sentence_reordering", "simple_equations", "simple_geometry", "spell_backward", "spiral_matrix",
    "string_insertion", "string_manipulation", "word_ladder", "word_sequence_reversal", "word_sorting",
)  # fmt: skip
LEVELS = 5


def gym_task(name: str) -> Task:
    """The task ``rg:NAME``.  A level up takes every setting of the package's own curriculum one up.

    Raises:
        RecipeError: the package is missing, or the task is unknown or not in the list.
    """
    if name not in ALLOWED:
        import difflib

        near = difflib.get_close_matches(name, ALLOWED, n=1)
        hint = f"did you mean rg:{near[0]}?" if near else f"there are {', '.join(ALLOWED)}"
        raise RecipeError(f"rg:{name} is not among the reasoning-gym tasks that can be judged exactly; {hint}")
    try:
        import reasoning_gym
        from reasoning_gym.factory import create_curriculum
    except ImportError:
        raise RecipeError(f"rg:{name} needs the package reasoning-gym: pip install 'seekling[gym]'") from None
    entries: dict[str, Any] = {}

    def make(r: random.Random, level: int) -> tuple[str, str, str, dict[str, Any]]:
        settings: dict[str, Any] = {}
        if level > 1:
            curriculum = create_curriculum(name)
            for _ in range(level - 1):
                for attribute in curriculum.attributes:
                    curriculum.increment_attr_level(attribute)
            made = curriculum.generate_configuration({"size": 1})
            settings = {k: v for k, v in vars(made).items() if k not in ("size", "seed")}
        data = reasoning_gym.create_dataset(name, size=1, seed=r.getrandbits(31), **settings)
        entry = data[0]
        entries["scorer"] = data
        return entry["question"].strip(), str(entry["answer"]), "", {"entry": entry}

    def judge(answer: str, problem: Problem) -> bool:
        if len(answer) > len(problem.answer) + LONGER:
            return False
        if "scorer" not in entries:  # problems made elsewhere
            entries["scorer"] = reasoning_gym.create_dataset(name, size=1, seed=0)
        try:
            return bool(entries["scorer"].score_answer(answer, problem.metadata["entry"]) == 1.0)
        except Exception:  # scorers of the package raise on junk, each in its own way; junk is not right
            return False

    return Task(f"rg:{name}", make, judge, levels=LEVELS)
