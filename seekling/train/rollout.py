"""Answers to problems, drawn by the engine from the weights in training, and judged.

The engine reads the student's weights where they lie (torch) or packs them anew (native kernels, from the second on a second of
work); nothing goes through the disk.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from seekling.errors import SeeklingError
from seekling.lm import LM
from seekling.model import Decoder
from seekling.model.layers import weight_of
from seekling.tasks import Problem, Task, get_task, reward_of
from seekling.tasks.base import Reward
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.lora import LoRAExperts, LoRALinear

TAGS = "Give only the final answer between <answer> and </answer>."


@dataclass(frozen=True)
class Answer:
    """One drawn answer: tokens with the sampler's log-probabilities, and what it earned. ``cut``: it ended at the limit."""

    problem: Problem
    group: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    reward: Reward
    cut: bool


def plain_model(model: Decoder) -> Decoder:
    """A decoder without adapter layers whose weights are the effective ones; what has no adapter is shared, not copied."""
    if not any(isinstance(m, LoRALinear | LoRAExperts) for m in model.modules()):
        return model
    out = Decoder.empty(model.config)
    state: dict[str, torch.Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LoRALinear):
            state[f"{name}.weight"] = weight_of(module).detach()
            if module.bias is not None:
                state[f"{name}.bias"] = module.bias.detach()
        elif isinstance(module, LoRAExperts):
            for part in ("gate_up", "down"):
                state[f"{name}.{part}_proj"] = module.merged(part).detach()
                if hasattr(module.base, f"{part}_proj_bias"):
                    state[f"{name}.{part}_proj_bias"] = getattr(module.base, f"{part}_proj_bias").detach()
    wanted = out.state_dict()
    own = {name: t.detach() for name, t in model.state_dict().items() if name in wanted}
    out.load_state_dict({**own, **state}, assign=True)
    if model.config.tie_word_embeddings:
        out.lm_head.weight = out.model.embed_tokens.weight
    return out.eval().requires_grad_(False)


class Roller:
    """Draws and judges answers for a recipe."""

    def __init__(self, lm: LM, recipe: GrpoRecipe):
        self.lm, self.recipe = lm, recipe
        self.tasks: list[Task] = [get_task(name) for name in recipe.practice.tasks]
        self.seconds = 0.0
        self.tokens = 0

    def engine(self) -> Any:
        """An engine over the weights as they are now."""
        from seekling.engine import Engine

        draw, practice = self.recipe.draw, self.recipe.practice
        rows = min(64, practice.problems * practice.group)
        lm = LM(plain_model(self.lm.model), self.lm.tokenizer)
        cpu = self.lm.model.lm_head.weight.device.type == "cpu"
        choice: Any = "native" if draw.rollout == "auto" and cpu else draw.rollout
        quant: Any = draw.rollout_quant or None
        with torch.no_grad():
            try:
                return Engine(lm, quant, runner=choice, max_rows=rows, prefix_cache=not lm.config.holds_state)
            except SeeklingError:
                if draw.rollout != "auto" or quant:
                    raise
                return Engine(lm, runner="torch", max_rows=rows)

    def messages(self, problem: Problem) -> list[dict[str, str]]:
        """The prompt of a problem."""
        practice, task = self.recipe.practice, get_task(problem.task)
        parts = [problem.question, task.hint, TAGS if practice.tagged else ""]
        system = [{"role": "system", "content": practice.system}] if practice.system else []
        return [*system, {"role": "user", "content": "\n".join(p for p in parts if p)}]

    def problems(self, seed: int, first: int, count: int) -> list[Problem]:
        """``count`` problems from number ``first`` on, the tasks in turn."""
        level = self.recipe.practice.level
        return [self.tasks[i % len(self.tasks)].problem(seed, i, level) for i in range(first, first + count)]

    def draw(self, step: int) -> list[Answer]:
        """The answers of a roll-out; equal step numbers and weights give equal answers."""
        recipe = self.recipe
        practice = recipe.practice
        problems = self.problems(recipe.start.seed, step * practice.problems, practice.problems)
        return self.answers(problems, practice.group, recipe.draw.temperature, seed=(step + 1) * 1_000_003 + recipe.start.seed)

    def answers(self, problems: Sequence[Problem], group: int, temperature: float, seed: int) -> list[Answer]:
        """``group`` answers to each problem, a problem's together."""
        from seekling.engine import Sampling
        from seekling.engine.prompt import encode_prompts

        practice, began = self.recipe.practice, time.monotonic()
        engine = self.engine()
        settings = [
            Sampling(self.recipe.draw.max_tokens, temperature, n=group, seed=(seed + 131 * i) % 2**62)
            for i in range(len(problems))
        ]
        talks = [self.messages(problem) for problem in problems]
        prompts = encode_prompts(talks, self.lm.tokenizer, self.lm.config, thinking=practice.think)
        found = engine.generate(prompts, settings)
        out = []
        for i, completion in enumerate(found):
            problem = problems[i // group]
            reply = completion.text.split("</think>")[-1]
            reward = reward_of(
                get_task(problem.task), problem, reply, tagged=practice.tagged, format_weight=practice.format_weight
            )
            out.append(
                Answer(
                    problem,
                    i // group,
                    tuple(prompts[i // group]),
                    tuple(completion.token_ids),
                    tuple(completion.logprobs or ()),
                    completion.text,
                    reward,
                    completion.finish_reason == "length",
                )
            )
        self.seconds += time.monotonic() - began
        self.tokens += sum(len(a.token_ids) for a in out)
        return out
