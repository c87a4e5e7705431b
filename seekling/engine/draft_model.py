"""A second, smaller model as the draft: it writes ahead greedily in pages of its own, and follows what the first decides."""

from collections.abc import Sequence

from seekling.engine.native_burst import Drafts, Outcome
from seekling.engine.pages import OutOfPages, PagePool
from seekling.engine.request import Request
from seekling.engine.runner import Chunk, Runner
from seekling.engine.speculate import Gated

CATCH_UP = 512  # tokens of a prompt it reads at a time


class ModelDrafter(Gated):
    """Drafts with another model of the same vocabulary.

    Args:
        runner: of the draft model; its pool is allocated here.
        pages: size of the pool; a request that finds no room is not drafted for.
        tokens: most tokens proposed.
    """

    def __init__(self, runner: Runner, pages: int, tokens: int = 4):
        super().__init__(tokens)
        runner.allocate(pages)
        self._runner, self._pool = runner, PagePool(pages)
        self._rows: dict[Request, tuple[list[int], list[int]]] = {}  # tokens the draft model has read, and their pages

    def propose(self, requests: Sequence[Request]) -> list[list[int]]:
        drafts: dict[Request, list[int]] = {request: [] for request in requests}
        if not self.settled(len(requests)):
            return [[] for _ in requests]
        going = {r: list(r.ids) for r in requests if self.gate(r).open() and self._fits(r)}
        for _ in range(self.tokens):
            chunks, speakers = [], []
            for request, ids in going.items():
                read, pages = self._rows[request]
                same = _common(read, ids)
                new = ids[same : same + CATCH_UP]
                del read[same:]
                chunks.append(Chunk(new, same, pages, "last"))
                read += new
                if len(read) == len(ids):
                    speakers.append(request)
            if not chunks:
                break
            best = self._runner.step(chunks).argmax(-1).tolist()
            for request, token in zip(list(going), best, strict=True):
                if request in speakers:
                    drafts[request].append(token)
                    going[request].append(token)
            going = {r: going[r] for r in speakers}
        return [drafts[request] for request in requests]

    def burst(self, request: Request) -> Drafts | None:
        """Plain bursts while drafts do not pay, or it is not known what a token costs without them."""
        return None if self.settled(1) and self.gate(request).open() else Drafts()

    def heard(self, request: Request, outcome: Outcome) -> None:
        super().heard(request, outcome)
        for place, one in enumerate(outcome.rounds):
            if place or len(outcome.rounds) == 1:
                self.timed(1, 0, one.seconds)

    def _fits(self, request: Request) -> bool:
        """Make sure its row has pages for all tokens that this proposal may read."""
        _, pages = self._rows.setdefault(request, ([], []))
        try:
            while len(pages) * self._runner.page_tokens < len(request.ids) + self.tokens:
                pages.append(self._pool.take())
        except OutOfPages:
            return False
        return True

    def forget(self, request: Request) -> None:
        super().forget(request)
        for page in self._rows.pop(request, ([], []))[1]:
            self._pool.release(page)


def _common(read: list[int], ids: list[int]) -> int:
    """Tokens of ``ids`` that are read already, at most all but the last."""
    limit = min(len(read), len(ids) - 1)
    if read[:limit] == ids[:limit]:
        return limit
    return next(i for i in range(limit) if read[i] != ids[i])
