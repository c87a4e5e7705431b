"""Answers to problems, drawn by the engine from the weights in training, and judged.

The engine reads the student's weights where they lie (torch), packs them anew (native kernels, from the second on in place), or
shares a packed base with the trainer and is given the adapter beside it; nothing goes through the disk.
"""

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch

from seekling.engine.native_adapters import changes_by_merging
from seekling.engine.packed import DecoderParts
from seekling.errors import RecipeError, SeeklingError, raise_all
from seekling.formats.adapters import Adapter
from seekling.lm import LM
from seekling.model import Decoder
from seekling.model.layers import weight_of
from seekling.tasks import Problem, Task, get_task, task_at
from seekling.tasks.base import Reward
from seekling.tasks.lessons import question_of
from seekling.tasks.named import with_paths
from seekling.tasks.shaping import shaped
from seekling.train.judging import Judge
from seekling.train.lora import HALVES, LoRAExperts, LoRALinear, adapter_of
from seekling.train.packed_base import PackedLM

if TYPE_CHECKING:
    from seekling.engine.runner import Experts

EVAL_SEED = 2**31 - 1  # problems of evaluations: never those of a run's own seed
STUDENT = "student"  # what the engine calls the adapter in training
TAGS = "Give only the final answer between <answer> and </answer>."


@dataclass(frozen=True)
class Drawn:
    """One drawn answer: tokens with the sampler's log-probabilities; ``cut``: it ended at the limit."""

    group: int
    prompt_ids: tuple[int, ...]
    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    text: str
    cut: bool
    experts: Any = field(default=None, kw_only=True, compare=False, repr=False)  # (tokens, MoE layers, K) the sampler's choices


@dataclass(frozen=True)
class Answer(Drawn):
    """An answer to a problem, and what it earned."""

    problem: Problem
    reward: Reward


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


class EffectiveParts(DecoderParts):
    """The tensors of a model in training as the native runner packs them: adapters added up, one matrix at a time."""

    def __init__(self, model: Decoder):
        self.config = model.config
        self._adapted = {n: m for n, m in model.named_modules() if isinstance(m, LoRALinear | LoRAExperts)}
        self._state = {n.replace(".experts.base.", ".experts."): t for n, t in model.state_dict().items() if ".lora_" not in n}

    def adapted(self) -> set[str]:
        """Names of the tensors that adapters change."""
        linear = {f"{n}.weight" for n, m in self._adapted.items() if isinstance(m, LoRALinear)}
        stacks = {f"{n}.{part}_proj" for n, m in self._adapted.items() if isinstance(m, LoRAExperts) for part in HALVES}
        return linear | stacks

    @torch.no_grad()
    def tensor(self, target: str, expert: int | None = None, rows: tuple[int, int] | None = None) -> torch.Tensor:
        weight = super().tensor(target, expert)
        module = self._adapted.get(target.rpartition(".")[0])
        if isinstance(module, LoRALinear) and target.endswith(".weight"):
            a, b = module.lora_A.to(weight.dtype), module.lora_B.to(weight.dtype)
            weight = torch.addmm(weight, b, a, alpha=module.scale)
        elif isinstance(module, LoRAExperts) and target.endswith("_proj"):
            weight = weight + module.delta(target.rpartition(".")[2].removesuffix("_proj"), expert).to(weight.dtype)
        return weight if rows is None else weight[rows[0] : rows[1]]


def spoken(text: str, think: bool) -> str | None:
    """What a reply says after its thinking; None where thinking was never closed, so that nothing was said."""
    _, mark, tail = text.rpartition("</think>")
    return tail if mark or not think else None


def problems_in_turn(tasks: Sequence[tuple[Task, int]], seed: int, first: int, count: int) -> list[Problem]:
    """``count`` problems from number ``first`` on, each (task, level) in turn; none of those kept for evaluation."""
    out = []
    for i in range(first, first + count):
        task, level = tasks[i % len(tasks)]
        out.append(task.problem(seed, i, level, unseen=False))
    return out


class Roller:
    """Draws and judges answers for a recipe with the sections start, practice and draw."""

    def __init__(self, lm: LM, recipe: Any, say: Callable[[str], None] = lambda line: None):
        self.lm, self.recipe = lm, recipe
        self.tasks = [task_at(name, recipe.practice.level) for name in recipe.practice.tasks]
        self.seconds = {"rollout": 0.0, "reward": 0.0}  # spent drawing and judging so far, and tokens drawn
        self.tokens = 0
        self.judge = Judge(recipe.practice, say)
        self.routed = lm.config.v4 is None and any(map(lm.config.is_moe, range(lm.config.num_hidden_layers)))
        self._engine: Any = None
        if isinstance(lm, PackedLM) and self.tasks:
            raise_all(RecipeError, self._against_sharing(lm), "--base-quant, where answers are drawn while it trains")

    def _against_sharing(self, lm: PackedLM) -> list[str]:
        found = changes_by_merging(lm.config, {STUDENT: self._adapter(lm)})
        bad = [f"{one} cannot run beside packed weights: name others with --lora-targets, or leave it out" for one in found]
        if self.recipe.draw.rollout == "torch":
            bad.append("answers are drawn from the packed base by the native kernels: drop --rollout torch")
        if self.recipe.draw.rollout_quant:
            bad.append("answers are drawn from the packed base: drop --rollout-quant")
        return bad

    def engine(self) -> Any:
        """An engine over the weights as they are now: native ones are packed again in place, only what training changes."""
        from seekling.engine import Engine

        if isinstance(self.lm, PackedLM):
            return self._beside(Engine, self.lm)
        fresh = self._engine is None
        if self._engine is None:
            self._engine = self._fresh_engine(Engine)
        parts = EffectiveParts(self.lm.model)  # also the first time: a resumed run packs the same bits
        if not self._engine.repack(parts, parts.adapted() or None) and not fresh:
            self._engine = self._fresh_engine(Engine)
        return self._engine

    def _beside(self, Engine: Any, lm: PackedLM) -> Any:
        """An engine over the trainer's own packed base, with the adapter as it is now."""
        from seekling.engine.backend import Backend

        if self._engine is None:
            backend = Backend(lm.config, lm.tokenizer, lm.runner, None, None, lambda: None, {})
            self._engine = Engine(backend, max_rows=self._rows(), prefix_cache=not lm.config.holds_state)
        self._engine.set_adapter(STUDENT, self._adapter(lm))
        return self._engine

    def _adapter(self, lm: PackedLM) -> Adapter:
        return adapter_of(lm.model, {name: p.detach() for name, p in lm.model.named_parameters()})

    def _rows(self) -> int:
        practice = self.recipe.practice
        return min(64, practice.problems * practice.group)

    def _fresh_engine(self, Engine: Any) -> Any:
        draw, rows = self.recipe.draw, self._rows()
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
        practice = self.recipe.practice
        return question_of(
            problem, get_task(problem.task).hint, TAGS if practice.tagged and not practice.form else "", practice.system
        )

    def problems(self, seed: int, first: int, count: int) -> list[Problem]:
        """``count`` problems to practise, from number ``first`` on, the tasks in turn; none of those kept for evaluation."""
        return problems_in_turn(self.tasks, seed, first, count)

    def draw(self, step: int, again: int = 0) -> list[Answer]:
        """The answers of a roll-out; equal step numbers and weights give equal answers. ``again``: of further problems."""
        recipe = self.recipe
        practice = recipe.practice
        problems = self.problems(recipe.start.seed + (again << 32), step * practice.problems, practice.problems)
        seed = (step + 1) * 1_000_003 + recipe.start.seed + (again << 40)
        return self.answers(problems, practice.group, recipe.draw.temperature, seed)

    def answers(self, problems: Sequence[Problem], group: int, temperature: float, seed: int) -> list[Answer]:
        """``group`` answers to each problem, a problem's together, judged."""
        practice, out = self.recipe.practice, []
        found = self.draw_talks([self.messages(p) for p in problems], group, temperature, seed)
        began = time.monotonic()
        for drawn in found:
            problem, reply = problems[drawn.group], spoken(drawn.text, practice.think)
            reward = Reward(0.0, 0.0, 0.0) if reply is None else self.judge(problem, reply)
            if practice.language or practice.overlong:
                reward = shaped(
                    reward, drawn.text, len(drawn.token_ids), language=practice.language, weight=practice.language_weight,
                    limit=self.recipe.draw.max_tokens, margin=practice.overlong,
                )  # fmt: skip
            out.append(Answer(**vars(drawn), problem=problem, reward=reward))
        self.seconds["reward"] += time.monotonic() - began
        return out

    def draw_talks(
        self, talks: Sequence[Sequence[Mapping[str, Any]]], group: int, temperature: float, seed: int
    ) -> list[Drawn]:
        """``group`` answers to each conversation, a conversation's together."""
        from seekling.engine import Sampling
        from seekling.engine.prompt import encode_prompts

        began = time.monotonic()
        settings = [
            Sampling(self.recipe.draw.max_tokens, temperature, n=group, seed=(seed + 131 * i) % 2**62, experts=self.routed)
            for i in range(len(talks))
        ]
        prompts = encode_prompts(talks, self.lm.tokenizer, self.lm.config, thinking=self.recipe.practice.think)
        found = self.engine().generate(prompts, settings, adapter=STUDENT if isinstance(self.lm, PackedLM) else None)
        out = [
            Drawn(i // group, tuple(prompts[i // group]), tuple(c.token_ids), tuple(c.logprobs or ()), c.text,
                  c.finish_reason == "length", experts=experts_of(c.experts))
            for i, c in enumerate(found)
        ]  # fmt: skip
        self.seconds["rollout"] += time.monotonic() - began
        self.tokens += sum(len(a.token_ids) for a in out)
        return out

    def evaluate(self) -> dict[str, Any]:
        """Greedy accuracy by task on problems kept from training, all different, with 95 % Wilson intervals."""
        names, count = self.recipe.practice.tasks, self.recipe.practice.eval_problems
        asked = [task.problems(EVAL_SEED, count, level, unseen=True) for task, level in self.tasks]
        answers = iter(self.answers([p for part in asked for p in part], 1, 0.0, seed=0))
        out: dict[str, Any] = {}
        for name, part in zip(names, asked, strict=True):
            own = [next(answers) for _ in part]
            right = sum(a.reward.accuracy for a in own)
            out[name] = {"accuracy": right / len(own), "interval": wilson(right, len(own)), "problems": len(own)}
            out[name]["format"] = sum(a.reward.format for a in own) / len(own)
        return {"accuracy": sum(v["accuracy"] for v in out.values()) / len(out), "tasks": out}


def told(evaluation: dict[str, Any]) -> str:
    """An evaluation in a line."""
    return ", ".join(
        f"{with_paths(name, os.path.basename)} {v['accuracy']:.1%} "
        f"({v['interval'][0]:.0%} to {v['interval'][1]:.0%}, {v['problems']} problems)"
        for name, v in evaluation["tasks"].items()
    )


def experts_of(told: "list[Experts] | None") -> torch.Tensor | None:
    """(tokens, MoE layers, K) expert numbers of an answer's tokens, int16."""
    if not told:
        return None
    return torch.tensor([[[expert for expert, _ in layer] for layer in token] for token in told], dtype=torch.int16)


def wilson(right: float, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = right / count, z * math.sqrt(right * (count - right) / count**3 + z * z / (4 * count * count))
    middle, width = share + z * z / (2 * count), 1 + z * z / count
    return round(max(0.0, (middle - spread) / width), 4), round(min(1.0, (middle + spread) / width), 4)
