"""White-box distillation: the student's next-token distribution is pulled to the teacher's, over the whole vocabulary.

Shapes: A answers, N tokens, D hidden.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from seekling.data.packed_conversations import PackedConversations
from seekling.errors import RecipeError, SeeklingError
from seekling.kernels import ops
from seekling.model import Decoder
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.loop import Terms
from seekling.train.loss import IGNORE, head_inputs, targets_of
from seekling.train.pretrain import Micro, NextTokens
from seekling.train.rollout import Answer, Roller
from seekling.train.rows import Rows, drawn_states, micro_batches
from seekling.train.schedule import Schedules
from seekling.train.teaching import MICRO_TOKENS


@contextmanager
def of_the_teacher() -> Iterator[None]:
    """Errors say that the model they are about is the teacher."""
    try:
        yield
    except SeeklingError as error:
        raise RecipeError(f"the teacher: {error}; lower --max-tokens, or take a teacher with a longer context") from None


class TeacherForced(NextTokens):
    """KL at every token the assistant says in given conversations; ``hard`` mixes in cross-entropy on those tokens."""

    def __init__(self, student: Decoder, teacher: Decoder, rows: PackedConversations, recipe: DistillRecipe):
        super().__init__(student, rows, recipe.learn, Schedules.of(recipe.learn))  # type: ignore[arg-type]
        self.teacher, self.teach, self.chunk = teacher, recipe.teach, recipe.learn.loss_chunk

    def terms(self, micro: Micro, step: int) -> Terms:
        batch = micro.batch.to(self.device)
        goal_N, (h_ND, w_VD), teacher = self._states(batch)
        share, teach = 1.0 / max(1, micro.targets), self.teach
        loss, kl_N = ops.linear_divergence(
            h_ND, w_VD, *teacher, share * (1 - teach.hard), reverse=teach.divergence == "reverse", chunk=self.chunk
        )
        means: dict[str, tuple[float, float]] = {"kl": (float(kl_N.sum()), len(goal_N))}
        if teach.hard:
            ce = ops.linear_cross_entropy(h_ND, w_VD, goal_N, share * teach.hard, self.chunk)
            means["ce"] = (float(ce.detach()) / (share * teach.hard), len(goal_N))
            loss = loss + ce
        return Terms(loss, len(goal_N), batch.tokens_BS.shape[0] * self.packed.seq_len, means)

    def _states(self, batch: Any) -> tuple[Tensor, tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(target ids, student's head inputs, teacher's) at the places that have a target."""
        T = self.packed.seq_len
        goal_N = targets_of(batch, T, 1).flatten()
        asked = (goal_N != IGNORE).nonzero()[:, 0]
        ids, docs = batch.tokens_BS[:, :T], batch.doc_BS[:, :T]
        own = head_inputs(self.model, self.model.hidden(ids, docs).flatten(0, 1)[asked])
        with torch.no_grad():
            teacher = head_inputs(self.teacher, self.teacher.hidden(ids, docs).flatten(0, 1)[asked])
        return goal_N[asked], own, teacher

    @torch.no_grad()
    def judge(self, rows: PackedConversations, step: int) -> dict[str, Any]:
        """Mean KL (nats) over the assistant's tokens of held-out conversations."""
        training, total, count = self.model.training, 0.0, 0
        self.model.eval()
        try:
            for first in range(0, rows.n_rows, 4):
                batch = rows.batch(first, min(4, rows.n_rows - first)).to(self.device)
                _, own, teacher = self._states(batch)
                _, kl_N = ops.linear_divergence(*own, *teacher, 1.0, reverse=self.teach.divergence == "reverse")
                total, count = total + float(kl_N.double().sum()), count + len(kl_N)
        finally:
            self.model.train(training)
        return {"kl": round(total / max(1, count), 6), "tokens": count}


class OnPolicy:
    """KL at every token of answers that the student draws itself, one fresh set of them a step."""

    def __init__(
        self,
        student: Decoder,
        teacher: Decoder,
        roller: Roller,
        prompts: Sequence[Sequence[Mapping[str, Any]]],
        recipe: DistillRecipe,
    ):
        self.model, self.teacher, self.roller, self.prompts, self.recipe = student, teacher, roller, prompts, recipe
        self.phases: dict[str, tuple[int, float]] = {}

    def load(self, step: int) -> Sequence[tuple[Rows, int, dict[str, tuple[float, float]]]]:
        recipe, before, spent = self.recipe, self.roller.tokens, dict(self.roller.seconds)
        self.model.eval()
        if self.prompts:
            n, count = recipe.practice.problems, len(self.prompts)
            talks = [self.prompts[i % count] for i in range(step * n, (step + 1) * n)]
            seed = (step + 1) * 1_000_003 + recipe.start.seed
            drawn: Sequence[Any] = self.roller.draw_talks(talks, recipe.practice.group, recipe.draw.temperature, seed)
        else:
            drawn = self.roller.draw(step)
        n = len(drawn)
        means = {
            "length": (float(sum(len(a.token_ids) for a in drawn)), float(n)),
            "cut": (float(sum(a.cut for a in drawn)), float(n)),
        }
        self.phases = {k: (self.roller.tokens - before, v - spent[k]) for k, v in self.roller.seconds.items()}
        if isinstance(drawn[0], Answer):
            means["accuracy"] = (sum(a.reward.accuracy for a in drawn), float(n))
        rows = micro_batches([(a, 0.0) for a in drawn], MICRO_TOKENS, self.model.lm_head.weight.device)
        tokens = sum(len(a.token_ids) for a in drawn)
        return [(part, tokens, means if i == 0 else {}) for i, part in enumerate(rows)]

    def terms(self, micro: tuple[Rows, int, dict[str, tuple[float, float]]], step: int) -> Terms:
        rows, tokens, means = micro
        h_ND, w_VD = head_inputs(self.model, drawn_states(self.model, rows)[0])
        with torch.no_grad(), of_the_teacher():
            teacher = head_inputs(self.teacher, drawn_states(self.teacher, rows)[0])
        loss, kl_N = ops.linear_divergence(
            h_ND, w_VD, *teacher, 1.0 / tokens, reverse=self.recipe.teach.divergence == "reverse",
            chunk=self.recipe.learn.loss_chunk,
        )  # fmt: skip
        return Terms(loss, len(kl_N), rows.ids_N.numel(), {**means, "kl": (float(kl_N.sum()), float(len(kl_N)))})
