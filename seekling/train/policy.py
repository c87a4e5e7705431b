"""The policy in training: answers drawn and judged, log-probabilities of their tokens, the clipped objective.

    load(step)   every `updates` steps: problems → engine → answers → rewards → advantages
    terms        log-probabilities of the drawn tokens → seekling.train.grpo_loss

Shapes: A answers, G answers a problem, T tokens of an answer (padded), S tokens of a row, N drawn tokens, D hidden.
"""

import copy
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from seekling.kernels import ops
from seekling.lm import load
from seekling.model import Decoder
from seekling.train.grpo_loss import GrpoSettings, advantages, policy_loss
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.loop import Terms
from seekling.train.lora import base_alone
from seekling.train.loss import head_inputs
from seekling.train.rollout import Answer, Roller, plain_model
from seekling.train.teaching import MICRO_TOKENS, Student

EVAL_SEED = 2**31 - 1  # problems of evaluations: never those of a run's own seed


@dataclass
class Rows:
    """Some answers side by side, right-padded, with what the objective needs of them."""

    ids_AS: Tensor
    place_AT: Tensor  # row position that predicts each token of the answer
    token_AT: Tensor
    mask_AT: Tensor
    sampler_AT: Tensor
    advantage_A: Tensor
    old_AT: Tensor | None = None
    ref_AT: Tensor | None = None


@dataclass
class Whole:
    """What a roll-out came to, for dividing and for the log."""

    tokens: int
    answers: int
    means: dict[str, tuple[float, float]]


class Policy:
    """The objective: see the module's text."""

    def __init__(self, student: Student, roller: Roller, recipe: GrpoRecipe, say: Any):
        p = recipe.policy
        self.student, self.roller, self.recipe, self.say = student, roller, recipe, say
        self.settings = GrpoSettings(
            p.advantage, p.average, p.ratio, p.clip_low, p.clip_high, p.kl, p.kl_kind, p.off_policy, p.truncate,
            recipe.draw.max_tokens,
        )  # fmt: skip
        self.reference: Decoder | None = None
        self.held: tuple[int, list[Rows], Whole] | None = None
        self.last: list[Answer] = []
        self.dull = 0

    # ---- roll-outs -----------------------------------------------------------------------------------------------

    def load(self, step: int) -> Sequence[tuple[Rows, Whole, bool]]:
        number = step // self.recipe.policy.updates
        if self.held is None or self.held[0] != number:
            self.held = (number, *self._roll(number, step))
        _, rows, whole = self.held
        return [(part, whole, i == 0) for i, part in enumerate(rows)]

    def _roll(self, number: int, step: int) -> tuple[list[Rows], Whole]:
        recipe, model = self.recipe, self.student.model
        if recipe.policy.kl and self.student.lora is None:
            self._move_reference(step)
        model.eval()
        began, before = time.monotonic(), self.roller.tokens
        answers = self.last = self.roller.draw(number)
        seconds = max(1e-9, time.monotonic() - began)
        group = recipe.practice.group
        rewards_PG = torch.tensor([a.reward.total for a in answers]).view(-1, group)
        gain_A = advantages(rewards_PG, recipe.policy.advantage).flatten().tolist()
        useful = [(a, g) for a, g in zip(answers, gain_A, strict=True) if g != 0.0]
        n = len(answers)
        means = {
            "reward": (sum(a.reward.total for a in answers), n),
            "accuracy": (sum(a.reward.accuracy for a in answers), n),
            "format": (sum(a.reward.format for a in answers), n),
            "length": (sum(len(a.token_ids) for a in answers), n),
            "cut": (sum(a.cut for a in answers), n),
            "zero_variance": (float((rewards_PG.std(1, correction=0) < 1e-6).sum()), len(rewards_PG)),
            "rollout_tokens_per_second": (self.roller.tokens - before, seconds),
        }
        self._warn(step, means)
        rows = self._rows(useful)
        with torch.no_grad():
            for part in rows:
                if recipe.policy.updates > 1:
                    part.old_AT = self._log_probs(model, part)[0]
                if recipe.policy.kl:
                    part.ref_AT = self._reference_log_probs(part)
        tokens = sum(int(part.mask_AT.sum()) for part in rows)
        return rows, Whole(max(1, tokens), max(1, len(useful)), means)

    def _warn(self, step: int, means: dict[str, tuple[float, float]]) -> None:
        """Say what keeps a run from learning, and what to do about it."""
        share = {name: value / count for name, (value, count) in means.items()}
        self.dull = self.dull + 1 if share["zero_variance"] == 1.0 else 0
        if self.dull in (3, 10):
            learn = "lower --level, teach the format first (seekling sft), or raise --group"
            how = "right: raise --level" if share["accuracy"] > 0.5 else f"wrong: {learn}"
            agree = f"{self.dull} roll-outs in a row, every group of equal rewards: nothing is learned"
            self.say(f"step {step}: {agree}; all answers are {how}")
        if share["cut"] > 0.5 and step % 10 == 0:
            self.say(
                f"step {step}: {share['cut']:.0%} of the answers end at --max-tokens {self.recipe.draw.max_tokens}; raise it"
            )

    def _rows(self, useful: Sequence[tuple[Answer, float]]) -> list[Rows]:
        """Answers by length, so that little is padded, cut into micro-batches."""
        ordered = sorted(useful, key=lambda pair: len(pair[0].prompt_ids) + len(pair[0].token_ids))
        out: list[Rows] = []
        part: list[tuple[Answer, float]] = []
        for pair in ordered:
            width = len(pair[0].prompt_ids) + len(pair[0].token_ids)
            if part and (len(part) + 1) * width > MICRO_TOKENS:
                out.append(rows_of(part, self.student.model.lm_head.weight.device))
                part = []
            part.append(pair)
        if part:
            out.append(rows_of(part, self.student.model.lm_head.weight.device))
        return out

    # ---- log-probabilities ---------------------------------------------------------------------------------------

    def _log_probs(self, model: Decoder, rows: Rows) -> tuple[Tensor, Tensor]:
        """(A, T) log-probabilities of the drawn tokens and entropies, 0 outside the mask."""
        h_ASD = model.hidden(rows.ids_AS)
        row_N, col_N = rows.mask_AT.nonzero(as_tuple=True)
        h_ND = h_ASD[row_N, rows.place_AT[row_N, col_N]]
        h_ND, weight_VD = head_inputs(model, h_ND)
        target_N = rows.token_AT[row_N, col_N]
        logp_N, entropy_N = ops.linear_log_prob(
            h_ND, weight_VD, target_N, self.recipe.draw.temperature, self.recipe.learn.loss_chunk
        )
        blank = rows.sampler_AT.new_zeros(rows.sampler_AT.shape)
        return blank.index_put((row_N, col_N), logp_N), blank.index_put((row_N, col_N), entropy_N)

    def _reference_log_probs(self, rows: Rows) -> Tensor:
        if self.student.lora is not None:  # the base under the adapters
            with base_alone(self.student.model):
                return self._log_probs(self.student.model, rows)[0]
        assert self.reference is not None  # `_roll` has made it
        return self._log_probs(self.reference, rows)[0]

    def _move_reference(self, step: int) -> None:
        """The model the KL term holds on to: the one the run began with, or the current one where it is refreshed."""
        refresh = self.recipe.policy.refresh
        if refresh and step and step // refresh != (step - self.recipe.policy.updates) // refresh:
            self.reference = None
        if self.reference is None:
            source = self.student.model
            if step and not refresh:  # the run was resumed: its beginning lies with the model it started from
                source = load(self.student.base, dtype=source.lm_head.weight.dtype).model
            self.reference = copy.deepcopy(plain_model(source)).eval().requires_grad_(False)

    # ---- the loss ------------------------------------------------------------------------------------------------

    def terms(self, micro: tuple[Rows, Whole, bool], step: int) -> Terms:
        rows, whole, first = micro
        logp_AT, entropy_AT = self._log_probs(self.student.model, rows)
        old_AT = logp_AT.detach() if rows.old_AT is None else rows.old_AT
        out = policy_loss(
            logp_AT, old_AT, rows.sampler_AT, rows.advantage_A, rows.mask_AT, self.settings,
            tokens=whole.tokens, answers=whole.answers, ref_AT=rows.ref_AT,
        )  # fmt: skip
        gap_AT = ((old_AT - rows.sampler_AT).abs() * rows.mask_AT).detach()
        means: dict[str, tuple[float, float]] = {
            "entropy": (float(entropy_AT.sum()), out.tokens),
            "clipped": (out.clipped, out.tokens),
            "sampler_gap": (float(gap_AT.sum()), out.tokens),
        }
        if self.settings.kl:
            means["kl"] = (out.kl, out.tokens)
        if self.settings.off_policy:
            means["left_out"] = (out.left_out, len(rows.advantage_A))
        if first:
            means |= whole.means
        return Terms(out.loss, out.tokens, rows.ids_AS.numel(), means)

    # ---- what people look at -------------------------------------------------------------------------------------

    def evaluate(self, step: int) -> dict[str, Any]:
        """Greedy accuracy on unseen problems by task, with 95 % Wilson intervals."""
        count, tasks = self.recipe.practice.eval_problems, self.roller.tasks
        self.student.model.eval()
        problems = self.roller.problems(EVAL_SEED, 0, count * len(tasks))
        answers = self.roller.answers(problems, 1, 0.0, seed=0)
        out: dict[str, Any] = {}
        for task in tasks:
            own = [a for a in answers if a.problem.task == task.name]
            right = sum(a.reward.accuracy for a in own)
            out[task.name] = {"accuracy": right / len(own), "interval": wilson(int(right), len(own)), "problems": len(own)}
            out[task.name]["format"] = sum(a.reward.format for a in own) / len(own)
        return {"accuracy": sum(v["accuracy"] for v in out.values()) / len(out), "tasks": out}

    def sample(self, step: int) -> dict[str, Any]:
        """Some of the last answers, the best and the worst."""
        ranked = sorted(self.last, key=lambda a: -a.reward.total)
        return {
            "samples": [
                {"question": a.problem.question, "answer": a.problem.answer, "text": a.text, "reward": a.reward.total}
                for a in (*ranked[:2], *ranked[-2:])
            ]
        }


def rows_of(pairs: Sequence[tuple[Answer, float]], device: Any) -> Rows:
    """Answers with their advantages as padded tensors."""
    A = len(pairs)
    S = max(len(a.prompt_ids) + len(a.token_ids) for a, _ in pairs)
    T = max(len(a.token_ids) for a, _ in pairs)
    ids, place, token = (torch.zeros(A, n, dtype=torch.int64) for n in (S, T, T))
    mask, sampler = torch.zeros(A, T, dtype=torch.bool), torch.zeros(A, T)
    for i, (answer, _) in enumerate(pairs):
        begin, n = len(answer.prompt_ids), len(answer.token_ids)
        ids[i, : begin + n] = torch.tensor([*answer.prompt_ids, *answer.token_ids])
        place[i, :n] = torch.arange(begin - 1, begin + n - 1)
        token[i, :n] = torch.tensor(answer.token_ids)
        mask[i, :n] = True
        sampler[i, :n] = torch.tensor(answer.logprobs)
    gains = torch.tensor([gain for _, gain in pairs])
    return Rows(*(t.to(device) for t in (ids, place, token, mask, sampler, gains)))


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """95 % interval of a share (Wilson 1927)."""
    share, spread = right / count, z * math.sqrt(right * (count - right) / count**3 + z * z / (4 * count * count))
    middle, width = share + z * z / (2 * count), 1 + z * z / count
    return round(max(0.0, (middle - spread) / width), 4), round(min(1.0, (middle + spread) / width), 4)
