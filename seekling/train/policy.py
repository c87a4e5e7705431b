"""The policy in training: answers drawn and judged, log-probabilities of their tokens, the clipped objective.

    load(step)   every `updates` steps: problems → engine → answers → rewards → advantages
    terms        log-probabilities of the drawn tokens → seekling.train.grpo_loss

Shapes: A answers, G answers a problem, T tokens of an answer (padded), S tokens of a row, N drawn tokens, D hidden.
"""

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from seekling.errors import RecipeError
from seekling.kernels import ops
from seekling.lm import load
from seekling.model import Decoder, Trace
from seekling.train.grpo_loss import GrpoSettings, advantages, policy_loss
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.loop import Terms
from seekling.train.lora import base_alone
from seekling.train.loss import head_inputs
from seekling.train.precision import stays_float32
from seekling.train.rollout import Answer, Roller, plain_model
from seekling.train.rows import Rows, agreement, drawn_states, micro_batches
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
        self.step = 0
        self.dull = 0
        self.phases: dict[str, tuple[int, float]] = {}  # tokens and seconds of what `load` did, for the log
        self.clipped: tuple[float, int] = (0.0, 0)  # clipped tokens and all, since the last roll-out
        self.teacher = self._open_teacher() if p.teacher else None
        if recipe.draw.replay and not roller.routed:
            raise RecipeError("--replay reuses a router's choices, and this model has no router it can do that with: drop it")

    def _open_teacher(self) -> Decoder:
        from seekling.train.distill import check_vocabulary

        name, own = self.recipe.policy.teacher, self.student.lm
        teacher = load(name, dtype=own.model.lm_head.weight.dtype)
        if teacher.tokenizer is None:
            raise RecipeError(f"{name} has no tokenizer; give a model folder with tokenizer.json")
        check_vocabulary(own, teacher, name)
        return teacher.model.to(self.recipe.start.device).eval().requires_grad_(False)

    # ---- roll-outs -----------------------------------------------------------------------------------------------

    def load(self, step: int) -> Sequence[tuple[Rows | None, Whole, bool]]:
        number, self.step, self.phases = step // self.recipe.policy.updates, step, {}
        if self.held is None or self.held[0] != number:
            self.held = (number, *self._roll(number, step))
        _, rows, whole = self.held
        if not rows:  # nothing to learn, yet something to log
            return [(None, whole, True)]
        return [(part, whole, i == 0) for i, part in enumerate(rows)]

    def _roll(self, number: int, step: int) -> tuple[list[Rows], Whole]:
        recipe, model = self.recipe, self.student.model
        if recipe.policy.kl and self.student.lora is None:
            self._move_reference(step)
        model.eval()
        before, spent = self.roller.tokens, dict(self.roller.seconds)
        faults = self.roller.judge.faults.total()
        answers: list[Answer] = []
        useful: list[tuple[Answer, float]] = []
        rewards: list[Tensor] = []
        for again in range(1 + recipe.draw.refill):
            fresh = self.roller.draw(number, again) if again else self.roller.draw(number)
            kept, rewards_PG = self._worth_learning(fresh)
            room = recipe.practice.problems * recipe.practice.group - len(useful)
            answers += fresh
            useful += [(replace(a, group=a.group + again * recipe.practice.problems), gain) for a, gain in kept[:room]]
            rewards.append(rewards_PG)
            if len(useful) >= recipe.practice.problems * recipe.practice.group:
                break
        self.last, rewards_PG = answers, torch.cat(rewards)
        n = len(answers)
        means = {
            "reward": (sum(a.reward.total for a in answers), n),
            "accuracy": (sum(a.reward.accuracy for a in answers), n),
            "format": (sum(a.reward.format for a in answers), n),
            **({"language": (sum(a.reward.language for a in answers), n)} if recipe.practice.language else {}),
            **({"overlong": (sum(a.reward.overlong for a in answers), n)} if recipe.practice.overlong else {}),
            "length": (sum(len(a.token_ids) for a in answers), n),
            "cut": (sum(a.cut for a in answers), n),
            "zero_variance": (float((rewards_PG.std(1, correction=0) < 1e-6).sum()), len(rewards_PG)),
            "reward_faults": (float(self.roller.judge.faults.total() - faults), 1.0),
            "left_out_groups": (float(n - len(useful)), float(n)),
        }
        self._warn(step, means)
        rows = micro_batches(useful, MICRO_TOKENS, model.lm_head.weight.device)
        drawn, began = self.roller.tokens - before, time.monotonic()
        self.phases = {name: (drawn, seconds - spent[name]) for name, seconds in self.roller.seconds.items()}
        with torch.no_grad():
            for part in rows:
                if recipe.policy.updates > 1:
                    part.old_AT = self._log_probs(model, part)[0]
                if recipe.policy.kl:
                    part.ref_AT = self._reference_log_probs(part)
                if self.teacher is not None:
                    part.teacher_AT = self._log_probs(self.teacher, part, told=False)[0]
        tokens = sum(int(part.mask_AT.sum()) for part in rows)
        if rows and (recipe.policy.updates > 1 or recipe.policy.kl or self.teacher is not None):
            self.phases["reference"] = (sum(part.ids_N.numel() for part in rows), time.monotonic() - began)
        return rows, Whole(max(1, tokens), max(1, len(useful)), means)

    def _worth_learning(self, answers: list[Answer]) -> tuple[list[tuple[Answer, float]], Tensor]:
        """Answers with their advantages, groups of equal rewards left out (a teacher has something to say on those too);
        and the rewards (P, G)."""
        rewards_PG = torch.tensor([a.reward.total for a in answers]).view(-1, self.recipe.practice.group)
        gain_A = advantages(rewards_PG, self.recipe.policy.advantage).flatten().tolist()
        pairs = list(zip(answers, gain_A, strict=True))
        return pairs if self.teacher is not None else [(a, g) for a, g in pairs if g != 0.0], rewards_PG

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
        if self.clipped[1] and self.clipped[0] > 0.5 * self.clipped[1]:
            self.say(
                f"step {step}: {self.clipped[0] / self.clipped[1]:.0%} of the tokens were clipped, which learn nothing; lower "
                "--lr or --updates, or widen --clip-low and --clip-high"
            )
        self.clipped = (0.0, 0)

    # ---- log-probabilities ---------------------------------------------------------------------------------------

    def _log_probs(
        self, model: Decoder, rows: Rows, trace: Trace | None = None, told: bool = True
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """(A, T) log-probabilities of the drawn tokens and entropies, 0 outside the mask.

        ``told``: the experts the sampler chose are used, where it is asked for.
        """
        if told and self.recipe.draw.replay and rows.experts_NLK is not None:
            trace = trace or Trace()
            trace.given = rows.experts_NLK.unbind(1)
        h_ND, at = drawn_states(model, rows, trace)
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
                source = load(self.student.base, source.lm_head.weight.dtype, stays_float32).model
                source.to(self.recipe.start.device)
            self.reference = copy.deepcopy(plain_model(source)).eval().requires_grad_(False)

    # ---- what a resumed run needs ----------------------------------------------------------------------------------

    @property
    def state_bytes(self) -> int:
        """Of a reference that moves; any other is had again from the model the run began with."""
        p = self.recipe.policy
        if not (p.kl and p.refresh) or self.student.lora is not None:
            return 0
        return sum(t.numel() * t.element_size() for t in self.student.model.state_dict().values())

    def state(self) -> dict[str, Tensor]:
        """The reference as it is, where it moves."""
        if self.reference is None or not self.recipe.policy.refresh:
            return {}
        tensors = self.reference.state_dict()
        if self.reference.config.tie_word_embeddings:
            del tensors["lm_head.weight"]
        return {f"reference.{name}": t for name, t in tensors.items()}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Put back what ``state`` gave."""
        held = {name.removeprefix("reference."): t for name, t in tensors.items()}
        reference = Decoder.empty(self.student.lm.config)
        tied = reference.config.tie_word_embeddings
        reference.load_state_dict(held | ({"lm_head.weight": held["model.embed_tokens.weight"]} if tied else {}), assign=True)
        if tied:
            reference.lm_head.weight = reference.model.embed_tokens.weight
        self.reference = reference.to(self.recipe.start.device).eval().requires_grad_(False)

    # ---- the loss ------------------------------------------------------------------------------------------------

    def terms(self, micro: tuple[Rows | None, Whole, bool], step: int) -> Terms:
        rows, whole, first = micro
        if rows is None:
            return Terms(torch.zeros(()), 0, 0, whole.means)
        trace = Trace() if rows.experts_NLK is not None else None
        logp_AT, entropy_AT = self._log_probs(self.student.model, rows, trace)
        old_AT = logp_AT.detach() if rows.old_AT is None else rows.old_AT
        out = policy_loss(
            logp_AT, old_AT, rows.sampler_AT, rows.advantage_A, rows.mask_AT, self.settings,
            tokens=whole.tokens, answers=whole.answers, ref_AT=rows.ref_AT, bonus_AT=self._bonus(rows, old_AT),
        )  # fmt: skip
        away_AT = ((old_AT - rows.sampler_AT) * rows.mask_AT).detach()
        self.clipped = (self.clipped[0] + out.clipped, self.clipped[1] + out.tokens)
        means: dict[str, tuple[float, float]] = {
            "entropy": (float(entropy_AT.sum()), out.tokens),
            "clipped": (out.clipped, out.tokens),
            "sampler_gap": (float(away_AT.abs().sum()), out.tokens),
            "ratio_variance": (float((away_AT.exp() - 1).square().sum()), out.tokens),
        }
        if trace is not None:
            means["router_agreement"] = agreement(rows, trace)
        if rows.teacher_AT is not None:
            means["teacher_gap"] = (float(((old_AT - rows.teacher_AT) * rows.mask_AT).sum()), out.tokens)
        if self.settings.kl:
            means["kl"] = (out.kl, out.tokens)
        if self.settings.off_policy:
            means["left_out"] = (out.left_out, len(rows.advantage_A))
        if first:
            means |= whole.means
        return Terms(out.loss, out.tokens, rows.ids_N.numel(), means)

    def _bonus(self, rows: Rows, old_AT: Tensor) -> Tensor | None:
        """What a teacher adds to each token's advantage: how much likelier it finds it."""
        if rows.teacher_AT is None:
            return None
        return self.recipe.policy.teacher_weight * (rows.teacher_AT - old_AT) * rows.mask_AT

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
