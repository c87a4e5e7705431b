"""The policy in training: answers drawn and judged, log-probabilities of their tokens, the clipped objective.

    load(step)   every `updates` steps: problems → engine → answers → rewards → advantages
    terms        log-probabilities of the drawn tokens → seekling.train.grpo_loss

Shapes: A answers, G answers a problem, T tokens of an answer (padded), S tokens of a row, N drawn tokens, D hidden.
"""

import copy
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
from seekling.train.rows import Rows, drawn_states, micro_batches
from seekling.train.teaching import MICRO_TOKENS, Student


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
        rows = micro_batches(useful, MICRO_TOKENS, model.lm_head.weight.device)
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

    # ---- log-probabilities ---------------------------------------------------------------------------------------

    def _log_probs(self, model: Decoder, rows: Rows) -> tuple[Tensor, Tensor]:
        """(A, T) log-probabilities of the drawn tokens and entropies, 0 outside the mask."""
        h_ND, at = drawn_states(model, rows)
        h_ND, weight_VD = head_inputs(model, h_ND)
        target_N = rows.token_AT[at]
        logp_N, entropy_N = ops.linear_log_prob(
            h_ND, weight_VD, target_N, self.recipe.draw.temperature, self.recipe.learn.loss_chunk
        )
        blank = rows.sampler_AT.new_zeros(rows.sampler_AT.shape)
        return blank.index_put(at, logp_N), blank.index_put(at, entropy_N)

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
        return Terms(out.loss, out.tokens, rows.ids_N.numel(), means)

    # ---- what people look at -------------------------------------------------------------------------------------

    def evaluate(self, step: int) -> dict[str, Any]:
        """Greedy accuracy on unseen problems by task."""
        self.student.model.eval()
        return self.roller.evaluate()

    def sample(self, step: int) -> dict[str, Any]:
        """Some of the last answers, the best and the worst."""
        ranked = sorted(self.last, key=lambda a: -a.reward.total)
        return {
            "samples": [
                {"question": a.problem.question, "answer": a.problem.answer, "text": a.text, "reward": a.reward.total}
                for a in (*ranked[:2], *ranked[-2:])
            ]
        }
