"""Planning reproduces what DeepSeek published from the inputs it published."""

import json

import pytest

from seekling.errors import ConfigError, RecipeError
from seekling.formats.families import write_config
from seekling.plan import (
    cost_from_speed,
    flops_per_token,
    hours_text,
    plan_config,
    plan_recipe,
    render,
    training_memory,
)
from seekling.recipe import Recipe, resolve
from seekling.sizes import named_config, size_config


def test_v3_costs_what_its_report_says():
    plan = plan_config(*named_config("v3"))
    assert plan.tokens == 14_800_000_000_000
    assert plan.cost.hours["pre-training"] == pytest.approx(2_664_000)
    assert plan.cost.device_hours == pytest.approx(2_788_000)
    assert plan.cost.dollars == pytest.approx(5_576_000)
    text = render(plan)
    assert "2,788K device-hours" in text and "2,664K pre-training" in text and "$5.576M" in text


def test_a_trillion_tokens_of_v3_take_three_point_seven_days_on_2048_devices():
    plan = plan_config(*named_config("v3"), tokens=10**12, devices=2048)
    assert plan.cost.device_hours == pytest.approx(180_000)
    assert plan.cost.wall_hours / 24 == pytest.approx(3.7, abs=0.05)


@pytest.mark.parametrize(("name", "kv"), [("v3", 70_272), ("v2", 69_120), ("v2-lite", 31_104)])
def test_latent_cache_bytes_are_the_published_ones(name, kv):
    assert plan_config(*named_config(name)).kv_bytes_per_token() == kv


def test_plain_attention_would_cache_57_times_as_much_in_v3():
    assert plan_config(*named_config("v3")).mha_bytes_per_token() == 3_997_696


@pytest.mark.parametrize(
    ("name", "total", "active"), [("v3", 671.026, 37.55), ("v2", 235.741, 21.4), ("v2-lite", 15.706, 2.66)]
)
def test_published_configs_have_the_published_parameter_counts(name, total, active):
    p = named_config(name)[1].parameters()
    assert round(p.total / 1e9, 3) == total
    assert p.active / 1e9 == pytest.approx(active, abs=0.03)


def test_v3_on_disk_is_685_billion_with_its_mtp_layer():
    plan = plan_config(*named_config("v3"))
    assert plan.config.parameters().mtp == pytest.approx(11.6e9, rel=0.01)
    assert plan.weight_bytes() / 2 == pytest.approx(685e9, rel=0.002)


@pytest.mark.parametrize(("name", "gflop"), [("v3", 250), ("v2", 155)])
def test_training_flops_a_token_are_those_of_deepseeks_hardware_paper(name, gflop):
    assert flops_per_token(named_config(name)[1], 4096).main / 1e9 == pytest.approx(gflop, abs=0.6)


def test_a_tied_head_still_multiplies():
    untied, tied = size_config("nano"), size_config("nano", tie_word_embeddings=True)
    assert flops_per_token(tied, 256).main == flops_per_token(untied, 256).main


def test_attention_flops_grow_with_the_sequence_and_the_rest_does_not():
    short, long = (flops_per_token(size_config("nano"), t) for t in (256, 512))
    assert long.attention == 2 * short.attention and long.matmul == short.matmul


def test_without_mtp_there_is_no_mtp_cost():
    assert flops_per_token(size_config("nano", num_nextn_predict_layers=0), 256).mtp == 0


def test_memory_counts_masters_copies_gradients_and_moments():
    config = size_config("nano")
    n = config.parameters().total + config.parameters().mtp
    memory = training_memory(config, "bfloat16", "adamw", 4096)
    assert (memory.weights, memory.gradients, memory.optimizer) == (6 * n, 4 * n, 8 * n)
    assert training_memory(config, "float32", "adamw", 4096).weights == 4 * n
    assert training_memory(config, "bfloat16", "muon", 4096).optimizer < 8 * n


def test_logits_of_a_batch_are_never_held_whole():
    config = size_config("milli")
    assert training_memory(config, "float32", "adamw", 8192, 1024).logits == 2 * 1024 * config.vocab_size * 4


def test_time_is_flops_over_speed():
    assert cost_from_speed(7200e9, 1e9, 3.0, devices=2).device_hours == pytest.approx(2)
    assert cost_from_speed(7200e9, 1e9, 3.0, devices=2).wall_hours == pytest.approx(1)
    assert cost_from_speed(7200e9, 1e9, 3.0).dollars == pytest.approx(6)


@pytest.mark.parametrize(("speed", "devices"), [(0.0, 1), (1.0, 0)])
def test_no_speed_or_no_device_is_refused(speed, devices):
    with pytest.raises(RecipeError, match="at least 1 device"):
        cost_from_speed(1.0, speed, 1.0, devices)


def test_a_recipes_plan_is_plain_json():
    plan = plan_recipe(resolve(Recipe.of(size="nano", steps=10)), 1e10)
    told = json.loads(json.dumps(plan.to_dict()))
    assert told["tokens"] == plan.tokens and told["memory_bytes"]["total"] == plan.memory.total
    assert told["cost"]["device_hours"] == pytest.approx(plan.flops.train * plan.tokens / 1e10 / 3600)


def test_more_tokens_than_reported_leave_the_reports_extra_hours_out():
    assert set(plan_config(*named_config("v3"), tokens=10**12).cost.hours) == {"pre-training"}


def test_a_config_folder_can_be_planned(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(write_config(size_config("micro"))))
    assert named_config(str(tmp_path))[1] == size_config("micro")


def test_an_unknown_config_names_what_there_is():
    with pytest.raises(ConfigError, match="did you mean v3"):
        named_config("v33")


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_broken_config_file_is_named(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_text(text)
    with pytest.raises(ConfigError, match=r"config\.json"):
        named_config(str(path))


@pytest.mark.parametrize(("hours", "text"), [(0.01, "36 seconds"), (0.5, "30.0 minutes"), (5, "5.0 hours"), (240, "10.0 days")])
def test_durations_read_well(hours, text):
    assert hours_text(hours) == text
