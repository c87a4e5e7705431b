"""Counters for Prometheus under vLLM's names, so that boards made for it work; the project's own begin with ``seekling:``."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120)
MOST_EXPERTS = 8192  # counters of single experts; larger models only tell how uneven a layer is
TOKENS = (1, 8, 32, 128, 512, 1024, 2048, 4096, 8192, 16384, 32768)


class Metrics:
    """All counters of a server."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self._refused = Counter("seekling:refused", "Requests refused, by status", ("status",), registry=registry)
        self._engines: dict[str, Any] = {}

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"vllm:{name}", text, ("model_name", *labels), registry=registry)

        def histogram(name: str, text: str, buckets: tuple[float, ...] = SECONDS) -> Histogram:
            return Histogram(f"vllm:{name}", text, ("model_name",), registry=registry, buckets=buckets)

        self.prompt_tokens = counter("prompt_tokens", "Prompt tokens taken in")
        self.generation_tokens = counter("generation_tokens", "Tokens generated")
        self.success = counter("request_success", "Answers completed", "finished_reason")
        self.first_token = histogram("time_to_first_token_seconds", "Time to the first token")
        self.inter_token = histogram("inter_token_latency_seconds", "Time between tokens")
        self.end_to_end = histogram("e2e_request_latency_seconds", "Time from request to the last token")
        self.queue_time = histogram("request_queue_time_seconds", "Time in the queue")
        self.prefill_time = histogram("request_prefill_time_seconds", "Time from there to the first token")
        self.decode_time = histogram("request_decode_time_seconds", "Time from the first token to the last")
        self.request_prompt = histogram("request_prompt_tokens", "Prompt tokens of a request", TOKENS)
        self.request_generation = histogram("request_generation_tokens", "Tokens of an answer", TOKENS)
        registry.register(_OfEngines(self._engines))

    def of(self, model: str, engine: Any) -> "Counters":
        """The counters of one model; its engine is asked whenever they are read."""
        self._engines[model] = engine
        return Counters(self, model)

    def refused(self, status: int) -> None:
        """A request got an error status."""
        self._refused.labels(status=str(status)).inc()

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)


class Counters:
    """Those of one model, looked up once."""

    def __init__(self, metrics: Metrics, model: str):
        self._success, self._model = metrics.success, model

        def of(family: Any) -> Any:
            return family.labels(model_name=model)

        self.prompt_tokens, self.generation_tokens = of(metrics.prompt_tokens), of(metrics.generation_tokens)
        self.first_token, self.inter_token, self.end_to_end = map(
            of, (metrics.first_token, metrics.inter_token, metrics.end_to_end)
        )
        self.queue_time, self.prefill_time, self.decode_time = map(
            of, (metrics.queue_time, metrics.prefill_time, metrics.decode_time)
        )
        self.request_prompt, self.request_generation = of(metrics.request_prompt), of(metrics.request_generation)

    def finished(self, reason: str) -> None:
        """An answer ended."""
        self._success.labels(model_name=self._model, finished_reason=reason).inc()


class _OfEngines(Collector):
    """What the engines know at the moment they are asked: one family of numbers, a line for each model."""

    def __init__(self, engines: dict[str, Any]):
        self._engines = engines

    def collect(self) -> Iterator[Metric]:
        families: dict[str, Metric] = {}
        for model, engine in self._engines.items():
            for family in _of_engine(model, engine.stats()):
                families.setdefault(family.name, family)
                if families[family.name] is not family:
                    families[family.name].samples += family.samples
        yield from families.values()


def _of_engine(model: str, stats: dict[str, Any]) -> Iterator[Metric]:
    def gauge(name: str, text: str, value: float) -> Metric:
        family = GaugeMetricFamily(name, text, labels=["model_name"])
        family.add_metric([model], value)
        return family

    def count(name: str, text: str, value: float) -> Metric:
        family = CounterMetricFamily(name, text, labels=["model_name"])
        family.add_metric([model], value)
        return family

    def share(pages: int) -> float:
        return max(0, pages) / stats["pages"]

    held = stats["pages_used"] - stats["pages_cached"]
    yield gauge("vllm:num_requests_running", "Answers being written", stats["running"])
    yield gauge("vllm:num_requests_waiting", "Answers waiting", stats["waiting"])
    yield gauge("vllm:kv_cache_usage_perc", "Share of cache pages that running answers hold", share(held))
    yield count("vllm:prefix_cache_queries", "Prompt tokens looked up in the prefix cache", stats["prefix_looked_up"])
    yield count("vllm:prefix_cache_hits", "Prompt tokens found there", stats["prefix_hit"])
    yield count("vllm:num_preemptions", "Answers that gave their pages back", stats["preempted"])
    yield count("seekling:steps", "Steps of the engine", stats["steps"])
    yield gauge("seekling:cache_pages", "Pages of the cache", stats["pages"])
    yield gauge("seekling:cache_pages_kept", "Pages kept for later prompts", stats["pages_cached"])
    yield gauge("seekling:cache_bytes", "Bytes the cache may take", stats["cache_bytes"])
    yield gauge("seekling:cache_bytes_used", "Bytes its used pages take", stats["cache_bytes"] * share(stats["pages_used"]))
    if "spill_files" in stats:
        yield gauge("seekling:spill_bytes", "Bytes of the files that evicted pages lie in", stats["spill_bytes"])
        yield count("seekling:spilled_bytes", "Bytes of pages written to files", stats["spilled_bytes"])
        yield count("seekling:reloaded_bytes", "Bytes of pages read back from them", stats["reloaded_bytes"])
        yield count("seekling:spill_damaged", "Files that were damaged or gone", stats["spill_damaged"])
        yield count("seekling:spill_unwritten", "Pages the disk did not take", stats["spill_unwritten"])
    if "drafted" in stats:
        yield count("vllm:spec_decode_num_drafts", "Drafts made", stats["drafts"])
        yield count("vllm:spec_decode_num_draft_tokens", "Tokens proposed", stats["drafted"])
        yield count("vllm:spec_decode_num_accepted_tokens", "Proposed tokens that were right", stats["accepted"])
        rate = stats["accepted"] / max(1, stats["drafted"])
        yield gauge("seekling:draft_acceptance", "Share of the proposed tokens that were right", rate)
    if stats["expert_load"] is not None:
        yield from _experts(model, stats["expert_load"])


def _experts(model: str, load_LE: np.ndarray) -> Iterator[Metric]:
    """Load by layer and expert, and how uneven it is."""
    labels = ["model_name", "layer", "expert"]
    tokens = CounterMetricFamily("seekling:expert_tokens", "Tokens an expert computed, in a sample of steps", labels=labels)
    uneven = GaugeMetricFamily("seekling:expert_imbalance", "Load of the busiest expert over the mean", labels=labels[:2])
    for layer, load_E in enumerate(load_LE):
        uneven.add_metric([model, str(layer)], float(load_E.max() / max(1e-9, load_E.mean())))
        for expert, value in enumerate(load_E.tolist() if load_LE.size <= MOST_EXPERTS else ()):
            tokens.add_metric([model, str(layer), str(expert)], value)
    yield uneven
    yield tokens
