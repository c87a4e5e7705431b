"""What all requests share: the models, the limits, the counters, and the reasoning clients may forget."""

import threading
import time
from collections import OrderedDict
from collections.abc import Hashable
from dataclasses import dataclass, field

from seekling.serve.barriers import Barriers
from seekling.serve.failures import ApiError
from seekling.serve.kept import Kept
from seekling.serve.ledger import Ledger
from seekling.serve.metrics import Metrics
from seekling.serve.model import Model


@dataclass(frozen=True)
class Limits:
    """The most a single request may ask for; beyond it is a 400 (413 for the body) that names the number.

    Attributes:
        head_seconds, body_seconds: by then the first line and headers, then the body must have arrived (408).
        reader_seconds: who reads nothing of what waits for him for so long is hung up on.
        connections: at a time; beyond them is a 503.
        rpm, concurrent, daily_tokens: of one key that has no limits of its own; 0 is no limit.
    """

    head_bytes: int = 64 << 10
    head_seconds: float = 20.0
    body_bytes: int = 4 << 20
    body_seconds: float = 60.0
    reader_seconds: float = 120.0
    connections: int = 1024
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
    """The models of one process and everything around them.

    Attributes:
        models: the first is the one the start of the server speaks of; no two have a name in common.
        keep_alive: seconds of silence after which a stream says it is still there.
        ledger: where tokens are written down, by key.
        barriers: moderation, labels, audit log, watermark.
    """

    models: list[Model]
    limits: Limits = field(default_factory=Limits)
    keep_alive: float = 10.0
    ledger: Ledger = field(default_factory=Ledger)
    barriers: Barriers = field(default_factory=Barriers)
    created: int = field(default_factory=lambda: int(time.time()))

    def __post_init__(self) -> None:
        self.metrics = Metrics()
        self.counters = {model: self.metrics.of(model.name, model.engine) for model in self.models}
        self.remembered = Remembered()
        self.kept = Kept()
        self._by_name = {name: model for model in self.models for name in model.names}

    @property
    def names(self) -> list[str]:
        """Every name a request may ask for."""
        return list(self._by_name)

    def find(self, name: str | None) -> Model:
        """The model that a request asks for by this name; None means the only one.

        Raises:
            ApiError: 404 for a name that is not served, 400 for none where there are several.
        """
        if name is None:
            if len(self.models) == 1:
                return self.models[0]
            raise ApiError(400, f"model: is missing; this server has {', '.join(self.names)}", param="model")
        if name not in self._by_name:
            message = f"the model {name!r} is not served here; known: {', '.join(self.names)}"
            raise ApiError(404, message, param="model", code="model_not_found")
        return self._by_name[name]

    def know_fingerprints(self) -> None:
        """Read the weights once, in the background: answers need not wait for it."""

        def work() -> None:
            for model in self.models:
                model.know_fingerprint()

        threading.Thread(target=work, name="seekling-fingerprint", daemon=True).start()

    def charge(self, tenant: Hashable, *, prompt: int = 0, completion: int = 0, requests: int = 0, now: bool = False) -> None:
        """Write tokens down for the key that stands first in a tenant (`tenant_of`)."""
        asker = tenant[0] if isinstance(tenant, tuple) else None
        if asker is None and not self.limits.daily_tokens:
            return  # nobody's, and nobody counts
        self.ledger.add(str(asker or ""), prompt=prompt, completion=completion, requests=requests, now=now)
