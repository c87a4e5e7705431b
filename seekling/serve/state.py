"""What all requests share: the engine, the model's names, the limits, the counters, and the reasoning clients may forget."""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any

from seekling.engine import Engine
from seekling.engine.measure import cache_bytes_a_token
from seekling.errors import SeeklingError
from seekling.serve.barriers import Barriers
from seekling.serve.failures import ApiError
from seekling.serve.kept import Kept
from seekling.serve.ledger import Ledger
from seekling.serve.metrics import Metrics


@dataclass(frozen=True)
class Limits:
    """The most a single request may ask for; beyond it is a 400 (413 for the body) that names the number.

    Attributes:
        body_seconds: a body must have arrived by then (408).
        rpm, concurrent, daily_tokens: of one key that has no limits of its own; 0 is no limit.
    """

    body_bytes: int = 4 << 20
    body_seconds: float = 60.0
    messages: int = 2048
    max_tokens: int | None = None
    n: int = 16
    prompts: int = 64
    stop: int = 16
    stop_chars: int = 512
    tools: int = 128
    schema_bytes: int = 64 << 10
    schema_depth: int = 32
    embeddings: int = 256
    rpm: int = 0
    concurrent: int = 0
    daily_tokens: int = 0


class Remembered:
    """Reasoning by the id of the tool call it led to, for clients that drop it from the history (the newest few thousand)."""

    def __init__(self, most: int = 4096):
        self._most, self._texts, self._lock = most, OrderedDict[Hashable, str](), threading.Lock()

    def put(self, tenant: Hashable, call_id: str, text: str) -> None:
        with self._lock:
            self._texts[tenant, call_id] = text
            while len(self._texts) > self._most:
                self._texts.popitem(last=False)

    def get(self, tenant: Hashable, call_id: str) -> str | None:
        return self._texts.get((tenant, call_id))


@dataclass
class Server:
    """One engine and everything around it.

    Attributes:
        names: the model's name, its aliases and its adapters; the first is the one told to clients.
        adapters: those names that choose one of the engine's adapters.
        keep_alive: seconds of silence after which a stream says it is still there.
        ledger: where tokens are written down, by key.
        barriers: moderation, labels, audit log, watermark.

    Raises:
        SeeklingError: the model has no tokenizer.
    """

    engine: Engine
    names: list[str]
    limits: Limits = field(default_factory=Limits)
    keep_alive: float = 10.0
    ledger: Ledger = field(default_factory=Ledger)
    adapters: frozenset[str] = frozenset()
    barriers: Barriers = field(default_factory=Barriers)
    facts: dict[str, Any] = field(default_factory=dict)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        if self.engine.tokenizer is None:
            raise SeeklingError("a model without a tokenizer cannot be served: add tokenizer.json to its folder")
        self.tokenizer: Any = self.engine.tokenizer
        self.metrics = Metrics(self.names[0], self.engine)
        self.remembered = Remembered()
        self.kept = Kept()
        self.end_ids = frozenset({*self.engine.config.eos_token_ids, *self.tokenizer.end_ids})
        config = self.engine.config
        self.moe_layers = [layer for layer in range(config.num_hidden_layers) if config.is_moe(layer)]
        self._fingerprint: str | None = None
        self._embedding = threading.Lock()

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
    def name(self) -> str:
        return self.names[0]

    @property
    def fingerprint(self) -> str | None:
        """Short form of the engine's; None until it is known."""
        return self._fingerprint

    def know_fingerprint(self) -> None:
        """Read the weights once, in the background: answers need not wait for it."""

        def work() -> None:
            self._fingerprint = f"fp_{self.engine.fingerprint[:16]}"

        threading.Thread(target=work, name="seekling-fingerprint", daemon=True).start()

    def check_model(self, name: str | None) -> str | None:
        """The adapter that a model's name stands for, None for the base. Raises ApiError(404) for a name that is not served."""
        if name is not None and name not in self.names:
            message = f"the model {name!r} is not served here; known: {', '.join(self.names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return name if name in self.adapters else None

    def charge(self, tenant: Hashable, *, prompt: int = 0, completion: int = 0, requests: int = 0, now: bool = False) -> None:
        """Write tokens down for the key that stands first in a tenant (`tenant_of`)."""
        asker = tenant[0] if isinstance(tenant, tuple) else None
        if asker is None and not self.limits.daily_tokens:
            return  # nobody's, and nobody counts
        self.ledger.add(str(asker or ""), prompt=prompt, completion=completion, requests=requests, now=now)

    def embed(self, prompts: list[Any], pooling: Any) -> Any:
        """`Engine.embed`, one caller at a time."""
        with self._embedding:
            return self.engine.embed(prompts, pooling)
