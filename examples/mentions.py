"""A reward for ``--tasks QUESTIONS.jsonl:examples/mentions.py``: 1 where the reply names what the line gives as its answer."""


def reward(answer: str, problem: dict) -> float:
    return float(problem["answer"].casefold() in answer.casefold())
