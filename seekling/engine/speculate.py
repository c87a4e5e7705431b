"""Speculation: somebody cheap proposes tokens, the model checks them all in one step.

Nothing of it changes an answer. The model draws every token itself, at its own place of the request's uniform numbers, and a
proposed token only counts where it is the one drawn. So the answer is the same token for token, greedy or sampled, and a
guess is right with exactly the probability the model gives it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from seekling.engine.native_burst import Drafts, Outcome
from seekling.engine.request import Request
from seekling.engine.runner import Chunk

MOST_DRAFTS = 64  # tokens a proposal may have
PLAIN_STEPS = 2  # measured before the first draft
PLAIN_BURST = 16  # one burst of so many is plain, so that what drafts cost is known against the machine as it is now


class Drafter(Protocol):
    """Proposes the next tokens of decoding requests, at most ``tokens``. ``steps`` counts proposals, the others tokens."""

    tokens: int
    steps: int
    drafted: int
    accepted: int

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        """For each request the tokens expected next, possibly none."""

    def observe(self, chunks: Sequence[Chunk], requests: Sequence[Request]) -> None:
        """A step of the model has run over these chunks."""

    def timed(self, rows: int, drafted: int, seconds: float) -> None:
        """A step of nothing but decoding requests took so long, drafting and drawing included, with so many drafts in it."""

    def learn(self, request: Request, drafted: int, accepted: int) -> None:
        """What came of a proposal."""

    def burst(self, request: Request) -> Drafts | None:
        """How a burst of this request shall draft; None where it cannot without Python between its tokens."""

    def heard(self, request: Request, outcome: Outcome) -> None:
        """What came of that burst; the request has taken its tokens."""

    def forget(self, request: Request) -> None:
        """The request is over."""


@dataclass
class Gate:
    """Switches speculation of one request off while it does not pay, tries again later, and says how far to guess.

    A step with drafts costs so many plain ones (see `StepCost`), and yields 1 + accepted tokens.
    """

    gain: float = 1.0  # running mean of (tokens of a step) / (its cost); starts hopeful
    wait: int = 0
    pause: int = 16
    right: float = 4.0  # fading counts of drafted tokens that were right, and of first wrong ones
    wrong: float = 1.0

    @property
    def chance(self) -> float:
        """Of a drafted token to be right."""
        return self.right / (self.right + self.wrong)

    def open(self) -> bool:
        if self.wait:
            self.wait -= 1
        return not self.wait

    def length(self, most: int, cost: "StepCost") -> int:
        """Drafts to make, at least one: as many as raise the tokens expected in a time."""
        worth = yielded = 1.0
        for count in range(most):
            worth *= self.chance
            if worth * cost.of(count) <= cost.each * yielded:
                return max(1, count)
            yielded += worth
        return most

    def learn(self, drafted: int, accepted: int, spent: float) -> None:
        """A step with so many drafts came out so; it took the time of ``spent`` plain ones."""
        self.right, self.wrong = 0.9 * self.right + accepted, 0.9 * self.wrong + (accepted < drafted)
        # One step says little: where drafts pay 1.2, one in three still finds none right.
        self.gain += 0.06 * ((1 + accepted) / spent - self.gain)
        if self.gain < 0.95:
            self.wait, self.gain = self.pause, 0.99  # the next try ends a step sooner
            self.pause = min(2 * self.pause, 512)
        elif self.gain > 1.1:
            self.pause = 16


class StepCost:
    """What a step with k drafts takes, in plain ones: 1 + ``fixed`` + ``each``·k, fitted as it goes (fading least squares)."""

    FADE = 0.98

    def __init__(self) -> None:
        self.fixed, self.each = 0.0, 0.1
        self._sums = [0.0] * 5  # of weights, k, k², cost, k·cost
        for drafts in (1, 4):  # two measurements to begin with
            self._add(drafts, self.each * drafts)

    def of(self, drafts: int) -> float:
        return 1 + self.fixed * (drafts > 0) + self.each * drafts

    def learn(self, drafts: float, cost: float) -> None:
        """A step with so many drafts a row took ``cost`` plain ones more."""
        self._sums = [self.FADE * value for value in self._sums]
        self._add(drafts, min(max(cost, 0.0), 4.0 * max(1.0, drafts)))
        weight, k, kk, y, ky = self._sums
        spread = kk / weight - (k / weight) ** 2
        slope = (ky / weight - k * y / weight**2) / spread if spread > 0.05 else y / k
        self.each = min(max(slope, 0.02), y / k if y > 0.02 * k else 0.02)
        self.fixed = max(0.0, (y - self.each * k) / weight)

    def _add(self, drafts: float, cost: float) -> None:
        new = (1.0, drafts, drafts * drafts, cost, drafts * cost)
        self._sums = [value + more for value, more in zip(self._sums, new, strict=True)]


class RoundCost:
    """What a round of a burst with k drafts takes, in plain ones.

    Measured for each k: the second row of a step is often nearly free and the third is not. Before it was, each draft is taken
    to cost what it does in the nearest shorter round that was.
    """

    FIRST = 0.4  # before anything was measured

    def __init__(self) -> None:
        self._seconds: dict[int, tuple[float, int]] = {}  # running means, and rounds measured

    @property
    def settled(self) -> bool:
        """Whether it is known what a round without drafts costs."""
        return self._seconds.get(0, (0.0, 0))[1] >= PLAIN_STEPS

    def of(self, drafts: int) -> float:
        known = max((k for k in self._seconds if 0 < k <= drafts), default=0)
        if not known or 0 not in self._seconds:
            return 1 + self.FIRST * drafts
        return 1 + max(0.0, self._seconds[known][0] / self._seconds[0][0] - 1) * drafts / known

    def learn(self, drafts: int, seconds: float) -> None:
        mean, rounds = self._seconds.get(drafts, (seconds, 0))
        self._seconds[drafts] = mean + (seconds - mean) * max(0.05, 1 / (rounds + 1)), rounds + 1

    def length(self, most: int, chance: float) -> int:
        """Drafts of a round, 1 … ``most``, that yield the most tokens in a time where each is right with this chance."""
        best, longest, worth, yielded = 0.0, 1, 1.0, 1.0
        for k in range(1, most + 1):
            worth *= chance
            yielded += worth
            if yielded / self.of(k) > best:
                best, longest = yielded / self.of(k), k
        return longest


class Gated:
    """What all drafters share: a gate for each request, what a draft costs here, and counts."""

    one_in = 32  # of so many new requests one is tried where drafts have not paid: the first reads the whole prompt once more

    def __init__(self, tokens: int = 4):
        self.tokens = tokens
        self.cost = StepCost()
        self._plain: dict[int, tuple[float, int]] = {}  # seconds of a step without drafts, and steps measured, by its rows
        self.tried = False  # the last proposal took time, whatever came of it
        self.late = False  # … and had more to read than usual
        self.gain = 1.0  # running mean over all requests of (tokens of a step) / (its cost)
        self.drafted = self.accepted = self.steps = 0
        self._right, self._wrong = 20.0, 5.0  # like a gate's, over all requests, and slower to fade
        self._gates: dict[Request, Gate] = {}
        self._doubtful = 0  # requests that began while drafts did not pay
        self.burst_cost, self._bursts = RoundCost(), 0

    def gate(self, request: Request) -> Gate:
        gate = self._gates.get(request)
        if gate is None:  # begins with what others taught
            right = 5 * self._right / (self._right + self._wrong)
            gate = Gate(gain=min(max(self.gain, 0.99), 1.2), right=right, wrong=5 - right)
            if self.gain <= 0.97:  # it did not pay for them: tried shortly, for texts differ, or later
                self._doubtful += 1
                gate.wait, gate.pause = (0 if self._doubtful % self.one_in == 0 else 256), 128
            self._gates[request] = gate
        return gate

    def settled(self, rows: int) -> bool:
        """Whether it is known what a step of so many rows costs without drafts; until then there are none."""
        return self._plain.get(rows, (0.0, 0))[1] >= PLAIN_STEPS

    @property
    def least(self) -> float:
        """Chance below which one more draft is not worth its row."""
        return self.cost.each

    def observe(self, chunks: Sequence[Chunk], requests: Sequence[Request]) -> None:
        """Nothing to see."""

    def timed(self, rows: int, drafted: int, seconds: float) -> None:
        plain, steps = self._plain.get(rows, (seconds, 0))
        if self.late or (self.tried and not drafted):
            return
        if not drafted:
            # the first are slower and soon forgotten
            self._plain[rows] = plain + (seconds - plain) * (0.1 if steps >= PLAIN_STEPS else 0.7), steps + 1
        elif steps:
            self.cost.learn(drafted / rows, seconds / plain - 1)

    def learn(self, request: Request, drafted: int, accepted: int, cost: StepCost | RoundCost | None = None) -> None:
        self.steps += drafted > 0
        self.drafted += drafted
        self.accepted += accepted
        self._right, self._wrong = 0.98 * self._right + accepted, 0.98 * self._wrong + (accepted < drafted)
        spent = (cost or self.cost).of(max(1, drafted))
        self.gain += 0.03 * ((1 + accepted) / spent - self.gain)
        self.gate(request).learn(drafted, accepted, spent)

    def burst(self, request: Request) -> Drafts | None:
        return None

    def drafts_now(self, request: Request) -> bool:
        """Whether the burst that begins shall draft."""
        self._bursts += 1
        return self.burst_cost.settled and self._bursts % PLAIN_BURST != 0 and self.gate(request).open()

    def length(self, request: Request) -> int:
        """Drafts of a round of that burst."""
        return self.burst_cost.length(self.tokens, self.gate(request).chance)

    def heard(self, request: Request, outcome: Outcome) -> None:
        gate, rounds = self.gate(request), outcome.rounds
        for place, (drafted, right, seconds) in enumerate(rounds):
            if drafted >= 0 and (place or len(rounds) == 1):  # the first has more to read, from a cooler cache
                self.burst_cost.learn(drafted, seconds)
            if drafted:
                self.learn(request, max(0, drafted), right, self.burst_cost)
            elif place and gate.wait:
                gate.wait -= 1

    def forget(self, request: Request) -> None:
        self._gates.pop(request, None)


class NgramDrafter(Gated):
    """Prompt look-up: where the last tokens stood before, what followed them follows again (good for quoting and editing).

    Args:
        tokens: most tokens proposed.
        longest, shortest: length of the end that is looked up.
    """

    one_in = 1  # looking costs next to nothing

    def __init__(self, tokens: int = 8, longest: int = 4, shortest: int = 2):
        super().__init__(tokens)
        self._sizes = range(longest, shortest - 1, -1)
        self._seen: dict[Request, tuple[int, list[dict[tuple[int, ...], int]]]] = {}

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        if not self.settled(len(requests)):
            return [[] for _ in requests]
        out = []
        for request in requests:
            gate = self.gate(request)
            out.append(self._look_up(request, gate.length(self.tokens, self.cost)) if gate.open() else [])
        return out

    def burst(self, request: Request) -> Drafts | None:
        if not self.drafts_now(request):
            return Drafts()
        return Drafts(self.length(request), look=True)

    def _look_up(self, request: Request, most: int) -> list[int]:
        ids = request.ids
        done, tables = self._seen.get(request, (0, [{} for _ in self._sizes]))
        for size, table in zip(self._sizes, tables, strict=True):
            for end in range(max(done, size), len(ids)):  # not the end itself
                table[tuple(ids[end - size : end])] = end
        self._seen[request] = (len(ids), tables)
        for size, table in zip(self._sizes, tables, strict=True):
            after = table.get(tuple(ids[-size:])) if len(ids) >= size else None
            if after is not None:
                draft = ids[after : after + most]
                while len(draft) < most:  # it reached the end: what follows is the repetition again
                    draft += draft[: most - len(draft)]
                return draft
        return []

    def forget(self, request: Request) -> None:
        super().forget(request)
        self._seen.pop(request, None)
