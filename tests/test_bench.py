"""``seekling bench``: the shape of its answer, its arithmetic against hand calculation, its errors. Nothing about speed."""

import json

import pytest
import torch
from engine_tiny import TOKENIZER, config, one_thread  # noqa: F401

from seekling import cli
from seekling.engine import Engine
from seekling.engine import measure as m
from seekling.errors import MachineError
from seekling.formats.adapters import Adapter, LowRank
from seekling.formats.peft_write import write_adapter
from seekling.kernels import available
from seekling.lm import LM, load
from seekling.model import Decoder
from seekling.verbs import bench

RUNNERS = ["torch", pytest.param("native", marks=pytest.mark.skipif(not available(), reason="kernels are not built"))]
SMALL = ("--tokens", "3", "--rows", "2", "1", "--prompt", "8", "--rounds", "2", "--threads", "1")


def saved(folder, **changes):
    model = Decoder.build(config(bos_token_id=TOKENIZER.bos_id, eos_token_id=TOKENIZER.eos_id, **changes))
    LM(model, TOKENIZER).save(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("bench") / "tiny")


@pytest.fixture
def no_processes(monkeypatch):
    """Figures of fresh processes without starting any."""
    monkeypatch.setattr(m, "fresh", lambda *_: m.Fresh(seconds=2.5, peak=500, resident=400, weights=100, cache=50))


def fails(capsys, *argv) -> str:
    assert cli.main(["bench", *map(str, argv)]) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    return err


def answer(capsys, *argv) -> dict:
    assert cli.main(["bench", *map(str, argv), "--json"]) == 0, capsys.readouterr().err
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    return json.loads(out)


# ---- arithmetic ------------------------------------------------------------------------------------------------------


def test_a_share_of_the_bandwidth_is_bytes_times_speed_over_bandwidth():
    assert m.bandwidth_share(100e6, 80, 16) == pytest.approx(0.5)


def test_a_million_tokens_cost_their_hours_times_the_price():
    assert m.cost_per_million(0.36, 100) == pytest.approx(1.0)  # 10,000 s at 0.0001 a second
    assert m.cost_per_million(0, 100) == 0


def test_the_spread_names_median_smallest_and_largest():
    assert m.Spread.of([3.0, 1.0, 2.0]) == m.Spread(2.0, 1.0, 3.0)


def test_rows_read_more_of_the_experts():
    shape = config(n_routed_experts=4, num_experts_per_tok=2)
    assert m.experts_read(shape, 1) == 0.5
    assert m.experts_read(shape, 2) == 0.75  # half of the half that the first left
    assert m.experts_read(config(n_routed_experts=0), 3) == 0


def test_a_sliding_window_bounds_what_is_read_of_the_cache():
    shape = config(
        model_type="qwen3", attention="gqa", num_key_value_heads=1, head_dim=8, sliding_window=4, n_routed_experts=0,
        layer_types=("sliding_attention", "full_attention", "full_attention"),
    )  # fmt: skip
    assert m.cache_positions(shape, 10) == pytest.approx((4 + 10 + 10) / 3)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_token_reads_every_active_matrix_but_the_input_table_and_the_cache_behind_it(tmp_path, runner):
    whole = dict(  # sizes that native matrices and pages hold without padding
        vocab_size=-(-TOKENIZER.vocab_size // 32) * 32, hidden_size=64, intermediate_size=96, moe_intermediate_size=32,
        q_lora_rank=32, kv_lora_rank=32, qk_nope_head_dim=32, qk_rope_head_dim=32, v_head_dim=32,
    )  # fmt: skip
    engine = Engine(saved(tmp_path, **whole), runner=runner, dtype="float32", threads=1)
    count = engine.config.parameters()
    cached = 3 * (32 + 32) * (2 if runner == "native" else 4)  # layers x (latents + rotated); native pages are bfloat16
    assert m.cache_bytes_a_token(engine) == cached
    weights = m.bytes_a_token(engine, 1, 10) - 10 * cached
    # native: the 4 rows of both routers are padded to 32, the norms' vectors are not counted
    native = 4 * (2 * 28 * 64 - (3 * (2 * 64 + 2 * 32) + 64)) if runner == "native" else 0
    assert weights == pytest.approx(4 * count.active_matmul + native, abs=64)  # biases of the routers
    assert m.weight_bytes(engine) == pytest.approx(4 * count.total + native, abs=64)


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_tied_table_is_read_as_the_head(tmp_path, runner):
    engine = Engine(saved(tmp_path, tie_word_embeddings=True), runner=runner, dtype="float32", threads=1)
    shape = engine.config
    heads = m.bytes_a_token(engine, 1, 0)
    untied = Engine(saved(tmp_path / "untied"), runner=runner, dtype="float32", threads=1)
    assert heads == pytest.approx(m.bytes_a_token(untied, 1, 0), rel=1e-6)
    assert m.weight_bytes(untied) - m.weight_bytes(engine) >= 4 * shape.vocab_size * shape.hidden_size


@pytest.mark.parametrize("runner", RUNNERS)
def test_a_tied_table_whose_head_has_a_bias_counts_once(runner):
    small = dict(tie_word_embeddings=True, bos_token_id=TOKENIZER.bos_id, eos_token_id=TOKENIZER.eos_id)
    plain, biased = (
        Engine(LM(Decoder.build(config(head_bias=bias, **small)), TOKENIZER), runner=runner, threads=1)
        for bias in (False, True)
    )
    size = config().vocab_size
    for measured in (m.weight_bytes, lambda engine: m.bytes_a_token(engine, 1, 0)):
        assert 0 <= measured(biased) - measured(plain) <= 4 * (size + 32)  # the bias


def test_an_adapter_folder_has_the_shape_of_its_base(tmp_path):
    base = saved(tmp_path / "base")
    lm = load(base)
    name = "model.layers.0.self_attn.o_proj.weight"
    outputs, inputs = lm.model.state_dict()[name].shape
    write_adapter(Adapter({name: LowRank(torch.ones(2, inputs), torch.ones(outputs, 2), 1.0)}), tmp_path / "lora", lm.model)
    settings = json.loads((tmp_path / "lora" / "adapter_config.json").read_text())
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(settings | {"base_model_name_or_path": str(base)}))
    assert bench.config_of(tmp_path / "lora") == bench.config_of(base)


def test_extra_memory_is_what_weights_and_cache_do_not_explain():
    assert m.Fresh(1.0, peak=900, resident=700, weights=400, cache=100).extra == 200
    assert m.Fresh(1.0, peak=None, resident=None, weights=400, cache=100).extra is None


# ---- the answer ------------------------------------------------------------------------------------------------------


def test_json_holds_every_cell_of_the_table(model, capsys):
    """With real processes: a start of the engine, its memory."""
    facts = answer(capsys, model, *SMALL, "--depth", "20", "--price", "0.36")
    assert [cell["rows"] for cell in facts["decode"]] == [1, 2]
    assert facts["runner"] and facts["threads"] == 1 and facts["rounds"] == 2
    bandwidth = facts["machine"]["bandwidth_gbs"]
    for cell in [*facts["decode"], facts["decode_at_depth"]]:
        speed = cell["tokens_per_second"]
        assert 0 < speed["low"] <= speed["median"] <= speed["high"]
        assert cell["cost_per_million"] == pytest.approx(100 / speed["median"])
        bounds = [cell["bytes_per_token"] * speed[a] / 1e9 / bandwidth[b] for a, b in (("low", "high"), ("high", "low"))]
        assert bounds[0] * 0.99 <= cell["bandwidth_share"] <= bounds[1] * 1.01
    first, memory = facts["first_token"], facts["memory"]
    assert first["warm_seconds"] > first["running_seconds"]["median"] > 0
    assert memory["peak_bytes"] >= memory["resident_bytes"] > memory["weight_bytes"] > 0
    assert memory["extra_bytes"] == memory["resident_bytes"] - memory["weight_bytes"] - memory["cache_bytes"]
    assert facts["speculation"] is None


@pytest.mark.parametrize("runner", RUNNERS)
def test_the_runner_asked_for_is_the_one_named(model, capsys, no_processes, runner):
    facts = answer(capsys, model, *SMALL, "--runner", runner, "--quant", "int8")
    assert facts["runner"].startswith(runner) and facts["quant"] == "int8"
    assert "cost_per_million" not in facts["decode"][0] and facts["price_per_hour"] is None


def test_the_table_names_each_cell_and_its_cost(model, capsys, no_processes):
    assert cli.main(["bench", str(model), *SMALL, "--price", "0.05"]) == 0
    shown = capsys.readouterr()
    for name in ("decode, 1 request ", "decode, 2 requests", "prefill, 8 tokens", "first token, cold", "peak memory"):
        assert name in shown.out
    assert "of the bandwidth" in shown.out and "EUR a million tokens" in shown.out
    assert "250 B" in shown.out  # 400 resident - 100 - 50
    assert "round 2 of 2" in shown.err and "round" not in shown.out.split("rounds", 1)[1].split("warning")[0]


@pytest.mark.parametrize("kind", ["ngram", "mtp"])
def test_speculation_reports_what_was_accepted(tmp_path, capsys, no_processes, kind):
    folder = saved(tmp_path, num_nextn_predict_layers=int(kind == "mtp"))
    found = answer(capsys, folder, *SMALL[:1], "12", *SMALL[2:], "--speculate", kind)["speculation"]
    assert found["kind"] == kind and 0 <= found["accepted"] <= found["drafted"]
    if found["drafted"]:
        assert found["acceptance"] == found["accepted"] / found["drafted"]
    assert 1 <= found["tokens_per_step"] <= 5 and found["gain"] > 0


def test_lengths_not_given_fit_into_a_short_context(model, capsys, no_processes):
    facts = answer(capsys, model, "--rows", "1", "--rounds", "1", "--threads", "1")
    assert (facts["prefill"]["prompt"], facts["tokens"]) == (95, 64)  # of 96


def cells(low: float, load: float | None) -> dict:
    speed = {"tokens_per_second": {"median": 10.0, "low": low, "high": 10.0}}
    machine = {"others_cores": load, "usable_cores": 2}
    return {"machine": machine, "decode": [{"rows": 1, **speed}], "prefill": {"prompt": 8, **speed}}


def test_a_busy_machine_and_rounds_that_differ_are_warned_of():
    assert bench.warnings(cells(9.9, 0.0)) == []
    assert "1.2 of 2 cores" in bench.warnings(cells(9.9, 1.2))[0]
    assert "cannot be read" in bench.warnings(cells(9.9, None))[0]
    assert "decode 1, prefill" in bench.warnings(cells(5.0, 0.0))[0]


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "flags, named",
    [
        (("--threads", "0"), "--threads"),
        (("--prompt", "0"), "--prompt"),
        (("--tokens", "1"), "--tokens"),
        (("--rows", "1", "0"), "--rows"),
        (("--rounds", "0"), "--rounds"),
        (("--depth", "-3"), "--depth"),
        (("--price", "-1"), "--price"),
        (("--price", "nan"), "--price"),
        (("--prompt", "96"), "at most 95"),
        (("--tokens", "90"), "context of 96"),
        (("--depth", "90", "--tokens", "8"), "context of 96"),
        (("--speculate", "mtp"), "MTP layers"),
    ],
)
def test_a_flag_that_is_no_use_is_named(model, capsys, flags, named):
    assert named in fails(capsys, model, *flags)


def test_several_bad_flags_are_told_at_once(model, capsys):
    err = fails(capsys, model, "--threads", "0", "--rounds", "0")
    assert "--threads" in err and "--rounds" in err


def test_a_model_that_is_not_there_is_named(tmp_path, capsys):
    assert "nowhere" in fails(capsys, tmp_path / "nowhere")


def test_what_a_fresh_process_refuses_reaches_the_user(model, tmp_path):
    with pytest.raises(MachineError, match="nowhere"):
        m.fresh(tmp_path / "nowhere", None, "auto", 1, 1, 8)


def test_prompts_are_the_same_each_time(model):
    engine = Engine(model, runner="torch")
    assert m.drawn(engine, 5, 1) == m.drawn(engine, 5, 1) != m.drawn(engine, 5, 2)
    assert torch.tensor(m.drawn(engine, 500, 1)).max() < engine.config.vocab_size
