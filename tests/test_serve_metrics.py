"""What ``/metrics`` tells: vLLM's names, and what only Seekling knows."""

import re

import httpx
import pytest
from engine_tiny import one_thread  # noqa: F401
from serve_tiny import random_engine, serving

HI = [{"role": "user", "content": "hi"}]
VLLM = """num_requests_running num_requests_waiting kv_cache_usage_perc prefix_cache_queries_total prefix_cache_hits_total
prompt_tokens_total generation_tokens_total request_success_total time_to_first_token_seconds_count
inter_token_latency_seconds_count e2e_request_latency_seconds_count request_queue_time_seconds_count
request_prefill_time_seconds_count request_decode_time_seconds_count request_prompt_tokens_sum request_generation_tokens_sum
num_preemptions_total""".split()


def numbers(served):
    """Every sample: (name, labels) → value."""
    lines = httpx.get(f"{served.url}/metrics").text.splitlines()
    found = (re.fullmatch(r"([a-z_:]+\w*)\{(.*)\} (\S+)", line) for line in lines if not line.startswith("#"))
    return {(m[1], m[2]): float(m[3]) for m in found if m}


def of(samples, name):
    return {labels: value for (found, labels), value in samples.items() if found == name}


@pytest.mark.parametrize(("path", "body"), [("chat/completions", {"messages": HI}), ("completions", {"prompt": ["hi", "ho"]})])
def test_every_surface_is_measured_under_vllms_names(path, body):
    with serving() as served:
        use = httpx.post(f"{served.url}/v1/{path}", json=body | {"max_tokens": 5}).json()["usage"]
        samples = numbers(served)
    plain = {name: sum(of(samples, f"vllm:{name}").values()) for name in VLLM}
    assert {f"vllm:{name}" for name in VLLM} <= {name for name, _ in samples}
    assert plain["prompt_tokens_total"] == plain["request_prompt_tokens_sum"] == use["prompt_tokens"]
    assert plain["generation_tokens_total"] == plain["request_generation_tokens_sum"] >= use["completion_tokens"]
    count = len(body.get("prompt", [1]))
    for name in ("time_to_first_token", "e2e_request_latency", "request_queue_time", "request_prefill_time"):
        assert plain[f"{name}_seconds_count"] == count
    assert plain["request_success_total"] == count


def test_the_load_of_experts_is_counted_layer_by_layer():
    with serving() as served:
        httpx.post(f"{served.url}/v1/chat/completions", json={"messages": HI, "max_tokens": 60, "n": 4})
        samples = numbers(served)
        load = served.engine.stats()["expert_load"]
    tokens, config = of(samples, "seekling:expert_tokens_total"), served.engine.config
    layers = sum(map(config.is_moe, range(config.num_hidden_layers)))
    assert len(tokens) == layers * config.n_routed_experts and sum(tokens.values()) == load.sum() > 0
    assert load.shape == (layers, config.n_routed_experts) and len(set(load.sum(1))) == 1  # each layer saw the same tokens
    assert len(of(samples, "seekling:expert_imbalance")) == layers
    assert all(1 <= value <= config.n_routed_experts for value in of(samples, "seekling:expert_imbalance").values())


def test_cache_and_drafts_are_told():
    with serving(random_engine(speculate="ngram")) as served:
        body = {"messages": [{"role": "user", "content": "ab " * 40}], "max_tokens": 40, "logit_bias": {"1": -100}}
        httpx.post(f"{served.url}/v1/chat/completions", json=body)
        samples, stats = numbers(served), served.engine.stats()
    one = {name: sum(of(samples, name).values()) for name, _ in samples}
    assert one["vllm:spec_decode_num_draft_tokens_total"] == stats["drafted"]
    assert one["vllm:spec_decode_num_accepted_tokens_total"] == stats["accepted"]
    assert 0 <= one["seekling:draft_acceptance"] <= 1
    assert 0 < one["seekling:cache_bytes_used"] <= one["seekling:cache_bytes"]
    assert one["vllm:kv_cache_usage_perc"] == 0
