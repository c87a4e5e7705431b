"""The time and the tokens of one prompt's answers, told to the metrics and to the ledger as they come."""

import time
from collections.abc import Hashable

from seekling.engine.handle import Handle
from seekling.engine.sampling import Delta
from seekling.serve.model import Model
from seekling.serve.state import Server


class Clock:
    """Begins with the request. Every delta goes through `count`; `stop` ends it and may be called again.

    Attributes:
        began, first: seconds of `time.perf_counter`; first token, None before it.
    """

    def __init__(self, server: Server, model: Model, handle: Handle, tenant: Hashable):
        self._server, self._handle, self._tenant = server, handle, tenant
        self._counters = server.counters[model]
        self.began, self.first, self._last = time.perf_counter(), None, 0.0  # type: float, float | None, float
        self._stopped = False
        prompt = handle.prompt_tokens
        server.charge(tenant, prompt=prompt, requests=1)
        self._counters.prompt_tokens.inc(prompt)
        self._counters.request_prompt.observe(prompt)

    def count(self, delta: Delta) -> None:
        """Take a delta. When it ends an answer, all tokens are in the ledger before this returns."""
        now, counters = time.perf_counter(), self._counters
        self._server.charge(self._tenant, completion=len(delta.token_ids), now=delta.finish_reason is not None)
        if delta.token_ids:
            counters.generation_tokens.inc(len(delta.token_ids))
            if self.first is None:
                self.first = now
                counters.first_token.observe(now - self.began)
                admitted = self._handle.requests[0].admitted
                if admitted is not None:
                    counters.queue_time.observe(max(0.0, admitted - self.began))
                    counters.prefill_time.observe(max(0.0, now - admitted))
            else:
                counters.inter_token.observe(now - self._last)
        self._last = now

    def timings(self, tokens: int) -> dict[str, float]:
        """In llama-server's words, of ``tokens`` so far: from the request to the first token, and of those after it."""
        first = self._last if self.first is None else self.first
        decode = self._last - first
        rate = {"predicted_per_second": round((tokens - 1) / decode, 2)} if tokens > 1 and decode > 0 else {}
        times = {"prompt_ms": round(1e3 * (first - self.began), 3), "predicted_ms": round(1e3 * decode, 3)}
        return {**times, "predicted_n": tokens, **rate}

    def stop(self) -> None:
        """No more will be read."""
        self._server.ledger.commit()
        if self._stopped or self.first is None:
            return
        self._stopped, counters = True, self._counters
        counters.end_to_end.observe(time.perf_counter() - self.began)
        counters.decode_time.observe(self._last - self.first)
        for request in self._handle.requests:
            counters.request_generation.observe(len(request.token_ids))
