"""Counters for Prometheus under vLLM's names, so that boards made for it work; the project's own begin with ``seekling:``."""

from collections.abc import Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
TOKENS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """All counters of a server."""

    def __init__(self, model: str, engine: Any):
        self._registry = registry = CollectorRegistry()
        self._label = {"model_name": model}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", text, ("model_name", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Any:
            return Histogram(f"vllm:{name}", text, ("model_name",), registry=registry, buckets=buckets).labels(**self._label)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens taken in").labels(**self._label)
        self.generation_tokens = counter("generation_tokens", "Tokens generated").labels(**self._label)
        self._success = counter("request_success", "Answers completed", "finished_reason")
        self._refused = Counter("seekling:refused", "Requests refused, by status", ("status",), registry=registry)
        self.first_token = histogram("time_to_first_token_seconds", "Time to the first token")
        self.inter_token = histogram("inter_token_latency_seconds", "Time between tokens")
        self.end_to_end = histogram("e2e_request_latency_seconds", "Time from request to the last token")
        self.request_prompt = histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS)
        self.request_generation = histogram("request_generation_tokens", "Tokens of an answer", TOKENS)
        registry.register(_OfEngine(engine, model))

    def finished(self, reason: str) -> None:
        """An answer ended."""
        self._success.labels(**self._label, finished_reason=reason).inc()

    def refused(self, status: int) -> None:
        """A request got an error status."""
        self._refused.labels(status=str(status)).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self._registry)


class _OfEngine(Collector):
    """What the engine knows at the moment it is asked."""

    def __init__(self, engine: Any, model: str):
        self._engine, self._model = engine, model

    def collect(self) -> Iterator[Metric]:
        stats = self._engine.stats()

        def gauge(name: str, text: str, value: float) -> Metric:
            family = GaugeMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            return family

        def count(name: str, text: str, value: float) -> Metric:
            family = CounterMetricFamily(name, text, labels=["model_name"])
            family.add_metric([self._model], value)
            return family

        used = stats["pages_used"] - stats["pages_cached"]
        yield gauge("vllm:num_requests_running", "Answers being written", stats["running"])
        yield gauge("vllm:num_requests_waiting", "Answers waiting", stats["waiting"])
        yield gauge("vllm:kv_cache_usage_perc", "Share of cache pages that running answers hold", max(0, used) / stats["pages"])
        yield count("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", stats["prefix_looked_up"])
        yield count("vllm:prefix_cache_hits", "Prompt tokens found there", stats["prefix_hit"])
        yield count("vllm:num_preemptions", "Answers that gave their pages back", stats["preempted"])
        yield count("seekling:steps", "Steps of the engine", stats["steps"])
        yield gauge("seekling:cache_pages", "Pages of the cache", stats["pages"])
        yield gauge("seekling:cache_pages_kept", "Pages kept for later prompts", stats["pages_cached"])
        if "drafted" in stats:
            yield count("vllm:spec_decode_num_draft_tokens", "Tokens proposed", stats["drafted"])
            yield count("vllm:spec_decode_num_accepted_tokens", "Proposed tokens that were right", stats["accepted"])
