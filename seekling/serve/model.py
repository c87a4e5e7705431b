"""One of the models a server answers with: its engine, its names, and what requests need to know of it."""

import threading
from typing import Any

from seekling.engine import Engine
from seekling.engine.measure import cache_bytes_a_token
from seekling.errors import SeeklingError


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
        self._embedding = threading.Lock()

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

    def embed(self, prompts: list[Any], pooling: Any) -> Any:
        """`Engine.embed`, one caller at a time."""
        with self._embedding:
            return self.engine.embed(prompts, pooling)
