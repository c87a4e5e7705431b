"""One of the models a server answers with: its engine, its names, and what requests need to know of it."""

import asyncio
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from anyio import CapacityLimiter, to_thread

from seekling.engine import Engine
from seekling.engine.loop import QueueFull
from seekling.engine.measure import cache_bytes_a_token
from seekling.errors import SeeklingError

T = TypeVar("T")


class Model:
    """An engine and what clients call it.

    Args:
        names: the model's name, its aliases and its adapters; the first is the one told to clients.
        adapters: those names that choose one of the engine's adapters.

    Raises:
        SeeklingError: the model has no tokenizer.
    """

    def __init__(self, engine: Engine, names: list[str], adapters: frozenset[str] = frozenset()):
        if engine.tokenizer is None:
            raise SeeklingError("a model without a tokenizer cannot be served: add tokenizer.json to its folder")
        self.engine, self.names, self.adapters = engine, names, adapters
        self.tokenizer: Any = engine.tokenizer
        config = engine.config
        self.end_ids = frozenset({*config.eos_token_ids, *self.tokenizer.end_ids})
        self.moe_layers = [layer for layer in range(config.num_hidden_layers) if config.is_moe(layer)]
        self._fingerprint: str | None = None
        self._knowing = threading.Lock()
        self._embedding, self._waiting = asyncio.Lock(), 0

    @property
    def name(self) -> str:
        return self.names[0]

    def adapter(self, name: str | None) -> str | None:
        """The adapter that one of its names stands for, None for the base."""
        return name if name in self.adapters else None

    def card(self) -> dict[str, Any]:
        """What a client may want to know of the model beyond its name; own fields of ``/v1/models``."""
        config, stats = self.engine.config, self.engine.stats()
        experts = {
            "routed": config.n_routed_experts,
            "per_token": config.num_experts_per_tok,
            "shared": config.n_shared_experts,
            "layers": self.moe_layers,
        }
        return {
            "max_model_len": self.engine.context,
            "thinking": self.tokenizer.chat.thinks,
            "experts": experts if self.moe_layers else None,
            "cache": {"bytes_per_token": cache_bytes_a_token(self.engine), "tokens": stats["pages"] * stats["page_tokens"]},
        }

    @property
    def fingerprint(self) -> str | None:
        """Short form of the engine's; None until it is known."""
        return self._fingerprint

    def know_fingerprint(self) -> None:
        """Read the weights once; whoever comes meanwhile waits."""
        with self._knowing:
            self._fingerprint = f"fp_{self.engine.fingerprint.removeprefix('seekling-')}"

    async def embedding(self, work: Callable[[Callable[[], bool]], T]) -> T:
        """The result of ``work``, which makes vectors in a thread, one caller at a time. It is given what tells whether it was
        cancelled, and must end soon then.

        Raises:
            QueueFull: as many wait already as the engine's queue holds.
        """
        if self._embedding.locked() and self._waiting >= self.engine.max_queue:
            raise QueueFull(f"{self._waiting} requests for vectors wait and the queue holds no more: try again later")
        self._waiting += 1
        try:
            await self._embedding.acquire()
        finally:
            self._waiting -= 1
        cancelled = threading.Event()
        try:  # in a thread of its own: not one of those that prepare everybody's prompts
            working = asyncio.ensure_future(to_thread.run_sync(work, cancelled.is_set, limiter=CapacityLimiter(1)))
            try:
                return await asyncio.shield(working)
            finally:
                cancelled.set()
                with suppress(Exception):
                    await working
        finally:
            self._embedding.release()
