"""The recipe: one tree that is API, TOML and flags; and how it is resolved."""

import argparse
import math
import tomllib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import MachineError, RecipeError
from seekling.formats.families import read_config, write_config
from seekling.knobs import MOST, read_number, toml_value
from seekling.machine import Machine
from seekling.recipe import Recipe, from_args, knobs, model_config, resolve
from seekling.resolve import explain
from seekling.sizes import PUBLISHED, SIZES, get_size, named_config, size_config
from seekling.train.distill_recipe import DistillRecipe
from seekling.train.dpo_recipe import DpoRecipe
from seekling.train.grpo_recipe import GrpoRecipe
from seekling.train.recipe_parts import steps_of
from seekling.train.sft_recipe import SftRecipe
from seekling.verbs.learn import check_memory

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)


def machine(**changes) -> Machine:
    facts = dict(
        cpu="test",
        cores=4,
        affinity=4,
        quota=None,
        isa=("avx2",),
        memory_bytes=8 << 30,
        memory_available=8 << 30,
        disk_free=1 << 30,
        compiler=None,
    )
    return Machine(**{**facts, **changes})


def value_of(spec) -> st.SearchStrategy:
    """Any value a field accepts."""
    m = spec.meta
    if spec.kind is tuple:
        inner = st.lists(st.sampled_from(m["choices"]) if m["choices"] else TEXT, max_size=3).map(tuple)
    elif m["choices"]:
        inner = st.sampled_from(m["choices"])
    elif spec.kind is bool:
        inner = st.booleans()
    elif spec.kind is str:
        inner = TEXT
    elif spec.kind is int:
        inner = st.integers(int(m["low"] or 0), int(m["high"] or MOST[int]))
    else:
        low = m["low"] if m["low"] is not None else m["above"]
        high = next(bound for bound in (m["high"], m["below"], MOST[float]) if bound is not None)
        inner = st.floats(
            low, high, exclude_min=m["low"] is None and low is not None, exclude_max=high == m["below"],
            allow_nan=False, allow_infinity=False,
        )  # fmt: skip
    return st.one_of(st.none(), inner) if spec.optional else inner


@st.composite
def recipes(draw) -> Recipe:
    """Recipes with any value in every field (they may contradict themselves: that is not what TOML is about)."""
    values = {name: draw(value_of(spec)) for name, spec in knobs().items()}
    sections = {}
    for section, part in Recipe.__annotations__.items():
        sections[section] = part(**{n: v for n, v in values.items() if knobs()[n].section == section})
    return Recipe(**sections)


@settings(max_examples=60)
@given(recipes())
def test_toml_text_holds_every_value_exactly(recipe):
    assert tomllib.loads(recipe.to_toml()) == {
        section: {k: list(v) if isinstance(v, tuple) else v for k, v in part.items()}
        for section, part in recipe.to_dict().items()
    }


@settings(max_examples=60)
@given(recipes())
def test_a_recipe_without_contradictions_survives_toml(recipe):
    if not recipe.problems():
        assert Recipe.from_toml(recipe.to_toml()) == recipe


@settings(max_examples=60)
@given(
    st.floats(allow_nan=False, allow_infinity=False)
    | st.integers(-(2**62), 2**62)
    | TEXT
    | st.booleans()
    | st.lists(TEXT, max_size=3)
)
def test_toml_values_are_read_back_by_the_standard_parser(value):
    back = tomllib.loads(f"x = {toml_value(value)}")["x"]
    assert back == value and type(back) is type(value)


@pytest.mark.parametrize("size", SIZES)
def test_a_resolved_recipe_survives_toml(size, tmp_path):
    resolved = resolve(Recipe.of(size=size, steps=50), machine())
    resolved.save(tmp_path / "recipe.toml")
    assert Recipe.load(tmp_path) == resolved


def test_a_resolved_recipe_has_no_derived_field_left():
    resolved = resolve(Recipe.of(size="nano", steps=50), machine())
    assert [name for name, value in resolved.flat().items() if value is None] == ["minutes"]
    assert resolved.train.dtype == "float32"


def test_every_derived_value_is_told_with_its_source():
    asked = Recipe.of(size="nano", steps=50)
    told = {name: source for name, _, source in explain(asked, resolve(asked, machine()))}
    missing = {n for n, v in asked.flat().items() if v is None} - {"minutes"}
    assert missing | {"dtype"} == set(told)
    assert all(told.values())


def test_resolving_twice_changes_nothing():
    once = resolve(Recipe.of(size="nano", steps=50), machine())
    assert resolve(once, machine(cores=64, affinity=64)) == once


def test_every_problem_is_listed_at_once_with_the_nearest_name():
    with pytest.raises(RecipeError) as caught:
        Recipe.of(batchsize=3, lr=5, steps=-1, size="nanno", document_mask="maybe")
    text = str(caught.value)
    assert "5 problems" in text
    assert "'batchsize'; did you mean batch_size?" in text
    assert "lr must be more than 0 and at most 1, not 5.0" in text
    assert "steps must be at least 1, not -1" in text
    assert "did you mean nano?" in text
    assert "document_mask must be true or false, not 'maybe'" in text


@pytest.mark.parametrize(
    "name", ["hidden_size", "num_hidden_layers", "n_routed_experts", "batch_size", "steps", "loss_chunk", "clip"]
)
def test_a_number_that_nobody_means_is_told_with_its_limit(name):
    with pytest.raises(RecipeError, match=f"{name} must be .*at most"):
        Recipe.of(**{name: "1e99"})
    with pytest.raises(RecipeError, match=r"lora_alpha must be .*at most"):
        SftRecipe.of(lora_alpha=1e99)


def test_a_model_that_no_memory_of_this_machine_holds_is_refused():
    recipe = resolve(Recipe.of(size="nano", hidden_size=2**19, steps=1), machine())
    with pytest.raises(MachineError, match="this machine has 9 GB"):
        check_memory(recipe, machine())
    check_memory(resolve(Recipe.of(size="nano", steps=1), machine()), machine())


def test_a_path_that_is_not_utf8_is_refused_before_anything_is_written():
    with pytest.raises(RecipeError, match="rename"):
        SftRecipe.of(data=["n\udcff.jsonl"])
    assert SftRecipe.of(data=["né\U0001f986.jsonl"]).talks.data == ("né\U0001f986.jsonl",)


def test_unknown_toml_keys_and_sections_are_refused():
    with pytest.raises(RecipeError) as caught:
        Recipe.from_toml("[train]\nleraning_rate = 1\nseq_len = 4\n[nonsense]\nx = 1\n")
    text = str(caught.value)
    assert "unknown key 'leraning_rate' in [train]" in text
    assert "seq_len belongs in [data], not in [train]" in text
    assert "unknown section [nonsense]" in text


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('steps = "10"', "steps must be a whole number, not '10'"),
        ("steps = 1.5", "steps must be a whole number, not 1.5"),
        ("steps = true", "steps must be a whole number, not True"),
        ('lr = "x"', "lr must be a number"),
        ("lr = inf", "lr must be more than 0"),
        ("lr = nan", "lr must be more than 0"),
        ("optimizer = 3", "optimizer must be text"),
        ('optimizer = "moun"', "did you mean muon?"),
        ('trackers = ["tensorbord"]', "did you mean tensorboard?"),
        ("trackers = [1]", "trackers must be a list of texts"),
    ],
)
def test_a_toml_value_of_the_wrong_kind_is_named(line, complaint):
    with pytest.raises(RecipeError, match="must") as caught:
        Recipe.from_toml(f"[train]\n{line}\n")
    assert complaint in str(caught.value)


def test_broken_toml_is_one_message_that_names_the_file(tmp_path):
    path = tmp_path / "r.toml"
    path.write_text("[train\n")
    with pytest.raises(RecipeError, match=r"r\.toml is not valid TOML"):
        Recipe.load(path)


def test_a_missing_recipe_file_is_a_recipe_error(tmp_path):
    with pytest.raises(RecipeError, match="no recipe at"):
        Recipe.load(tmp_path / "none.toml")


@pytest.mark.parametrize(
    ("values", "complaint"),
    [
        (dict(minutes=3, steps=4), "--minutes and --steps contradict"),
        (dict(tokens=300, steps=4), "--steps and --tokens contradict"),
        (dict(batch_size=6, micro_batch=4), "does not divide"),
        (dict(steps=5, warmup=6), "longer than the whole run"),
        (dict(dense=True, n_routed_experts=8), "has no experts"),
        (dict(corpus="none"), "leaves nothing to read"),
        (dict(seq_len=64, max_position_embeddings=32), "longer than the model's max_position_embeddings"),
    ],
)
def test_contradictions_are_refused(values, complaint):
    with pytest.raises(RecipeError) as caught:
        Recipe.of(**values)
    assert complaint in str(caught.value)


@pytest.mark.parametrize("kind", [Recipe, SftRecipe, DpoRecipe, GrpoRecipe, DistillRecipe])
def test_what_a_schedule_has_no_use_for_is_refused(kind):
    for schedule, name in [("constant", "min_lr_ratio"), ("constant", "decay_fraction"), ("cosine", "decay_fraction")]:
        with pytest.raises(RecipeError, match=f"--{name.replace('_', '-')} has no use with --schedule {schedule}"):
            kind.of(**{"schedule": schedule, name: 0.3})
        kind.of(**{"schedule": schedule, name: 0.3, "resolved": True})  # a run begun when it was passed over may go on
    kind.of(schedule="wsd", min_lr_ratio=0.3, decay_fraction=0.3)
    kind.of(schedule="cosine", min_lr_ratio=0.3)


def test_v3s_own_tails_have_no_other_end():
    with pytest.raises(RecipeError, match="V3's own tails"):
        Recipe.of(schedule="v3", min_lr_ratio=0.5)


def test_a_sequence_longer_than_the_size_is_meant_for_is_refused():
    with pytest.raises(RecipeError, match="raise --max-position-embeddings"):
        resolve(Recipe.of(size="nano", steps=5, seq_len=100_000), machine())


def test_a_sequence_within_the_size_sets_the_models_maximum():
    assert resolve(Recipe.of(size="nano", steps=5, seq_len=512), machine()).model.max_position_embeddings == 512


def test_model_contradictions_are_listed_when_resolving():
    asked = Recipe.of(size="nano", steps=5, n_group=3, qk_rope_head_dim=7)
    with pytest.raises(RecipeError) as caught:
        resolve(asked, machine())
    assert "n_group 3 must divide" in str(caught.value) and "qk_rope_head_dim must be even" in str(caught.value)


def test_what_the_user_says_is_never_replaced():
    said = dict(
        size="micro",
        steps=7,
        lr=1e-4,
        hidden_size=64,
        warmup=3,
        dtype="float32",
        threads=1,
        out="x",
        max_position_embeddings=999,
    )
    resolved = resolve(Recipe.of(**said), machine(isa=("avx512_bf16",))).flat()
    assert {name: resolved[name] for name in said} == said


def test_tokens_become_whole_steps():
    resolved = resolve(Recipe.of(size="nano", tokens="10K"), machine())
    per_step = resolved.train.batch_size * resolved.data.seq_len
    assert resolved.train.steps == -(-10_000 // per_step)
    assert resolved.train.tokens == resolved.train.steps * per_step


def test_without_a_length_a_run_sees_twenty_tokens_an_active_parameter():
    resolved = resolve(Recipe.of(size="nano"), machine())
    assert resolved.train.tokens / model_config(resolved).parameters().active == pytest.approx(20, rel=0.01)


def test_micro_batch_divides_the_batch_and_bounds_tokens():
    resolved = resolve(Recipe.of(size="centi", steps=5, batch_size=24, seq_len=1024), machine())
    assert 24 % resolved.train.micro_batch == 0 and resolved.train.micro_batch * 1024 <= 8192


def test_bfloat16_is_chosen_only_where_the_machine_has_it():
    asked = Recipe.of(size="nano", steps=5)
    assert resolve(asked, machine(isa=("avx512f",))).train.dtype == "float32"
    assert resolve(asked, machine(isa=("avx512_bf16",))).train.dtype == "bfloat16"


def test_own_text_replaces_the_default_corpus():
    resolved = resolve(Recipe.of(size="nano", steps=5, data=["texts"]), machine())
    assert (resolved.data.corpus, resolved.data.generated_share) == ("none", 0.0)


def test_the_dense_twin_has_as_many_active_parameters_and_no_experts():
    moe = model_config(resolve(Recipe.of(size="milli", steps=5), machine())).parameters()
    config = model_config(resolve(Recipe.of(size="milli", steps=5, dense=True), machine()))
    assert config.router_layers == []
    assert config.parameters().active == pytest.approx(moe.active, rel=0.01)
    assert config.parameters().total == config.parameters().active


def test_a_v2_model_gets_v2s_router_and_no_mtp():
    config = model_config(resolve(Recipe.of(size="nano", steps=5, model_type="deepseek_v2"), machine()))
    assert (config.scoring_func, config.topk_method, config.num_nextn_predict_layers) == ("softmax", "greedy", 0)


def test_zero_means_no_query_compression():
    assert model_config(resolve(Recipe.of(size="nano", steps=5, q_lora_rank=0), machine())).q_lora_rank is None


def test_a_resolved_recipe_keeps_its_numbers_when_a_rate_changes():
    resolved = resolve(Recipe.of(size="nano", steps=50), machine())
    changed = resolved.override(dict(lr="1e-3", out="other"))
    assert changed.run.resolved and changed.train.steps == 50 and changed.train.lr == 1e-3


def test_a_resolved_recipe_derives_again_what_a_new_length_changes():
    resolved = resolve(Recipe.of(size="nano", steps=50), machine())
    longer = resolve(resolved.override(dict(steps=500)), machine())
    assert longer.train.tokens == 10 * resolved.train.tokens and longer.train.warmup == 20
    assert longer.model == resolved.model


def test_a_resolved_recipe_refuses_another_size():
    resolved = resolve(Recipe.of(size="nano", steps=50), machine())
    with pytest.raises(RecipeError, match="fixed at size nano"):
        resolved.override(dict(size="micro"))


def test_every_field_is_a_flag_and_reads_back():
    parser = argparse.ArgumentParser()
    Recipe.add_flags(parser)
    flags = {flag for action in parser._actions for flag in action.option_strings}
    for name, spec in knobs().items():
        assert ("--" + name.replace("_", "-") in flags) == spec.meta["flag"]
    args = parser.parse_args("--batch-size 4 --lr 2e-3 --no-document-mask --data a b --data c --tokens 1.5M".split())
    recipe = from_args(args)
    assert (recipe.train.batch_size, recipe.train.lr, recipe.data.document_mask) == (4, 2e-3, False)
    assert recipe.data.data == ("a", "b", "c") and recipe.train.tokens == 1_500_000


def test_flags_not_given_leave_the_file_alone():
    parser = argparse.ArgumentParser()
    Recipe.add_flags(parser)
    base = Recipe.of(size="micro", lr=1e-3)
    assert from_args(parser.parse_args(["--seed", "3"]), base) == base.override(dict(seed=3))


@pytest.mark.parametrize(
    ("text", "number"), [("1_000", 1000), ("10M", 10**7), ("14.8e12", 14.8e12), ("2.5B", 2.5e9), ("3k", 3000)]
)
def test_numbers_are_read_as_people_type_them(text, number):
    assert read_number(text) == number


@pytest.mark.parametrize("text", ["", "M", "ten", "inf", "nan", "1e400", "--"])
def test_what_is_no_number_is_refused(text):
    with pytest.raises(ValueError):
        read_number(text)


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "total", "active", "mtp", "cache"),
    [("nano", 1.85, 0.96, 0.49, 40), ("micro", 6.48, 3.16, 1.11, 56), ("milli", 16.4, 6.6, 2.8, 80)],
)
def test_small_sizes_have_the_documented_counts(name, total, active, mtp, cache):
    config = size_config(name)
    p = config.parameters()
    assert [round(n / 1e6, 2) for n in (p.total, p.active, p.mtp)] == pytest.approx([total, active, mtp], abs=0.03)
    assert config.kv_elements_per_token() == cache * config.num_hidden_layers


@pytest.mark.parametrize(("name", "total"), [("centi", 60e6), ("deci", 300e6), ("uni", 1e9)])
def test_bigger_sizes_have_about_the_promised_parameters(name, total):
    assert size_config(name).parameters().total == pytest.approx(total, rel=0.06)


def test_an_unknown_size_names_the_nearest():
    with pytest.raises(RecipeError, match="did you mean milli"):
        get_size("mili")


@pytest.mark.parametrize("name", [*SIZES, *PUBLISHED])
def test_every_named_config_can_be_written_and_read(name):
    config = named_config(name)[1]
    assert read_config(write_config(config)) == config


# ---- a finished run's recipe, with something changed (the stages after pretraining) ----------------------------------------


def finished(kind, **values):
    """A resolved recipe as a stage saves it."""
    learnt = dict(steps=60, epochs=20.0, warmup=3, save_every=15, eval_every=7, batch_size=16, data=["a.jsonl"], lr=5e-4)
    learnt |= dict(micro_batch=8, seq_len=64) if kind is SftRecipe else {}
    return kind.of(**{**learnt, "lora": 4, "lora_alpha": 8.0, "threads": 1, "resolved": True, **values})


FOLLOW = dict(warmup=None, save_every=None, eval_every=None)


@pytest.mark.parametrize("kind", [SftRecipe, DpoRecipe])
@pytest.mark.parametrize(
    ("given", "after"),
    [
        ({"epochs": "10"}, {"steps": None, "epochs": 10.0, **FOLLOW}),
        ({"steps": "8"}, {"steps": 8, "epochs": None, **FOLLOW}),
        ({"steps": "8", "save_every": "4"}, {"steps": 8, "epochs": None, **FOLLOW, "save_every": 4}),
        ({"data": ["b.jsonl"]}, {"steps": None, "epochs": 20.0, **FOLLOW}),
        ({"batch_size": "8"}, {"steps": None, "epochs": 20.0, **FOLLOW}),
        ({"lora": "8"}, {"steps": 60, "lora_alpha": None, "lr": 5e-4, "warmup": 3}),
        ({"lora": "0"}, {"lora_alpha": None, "lr": None, "warmup": 3}),
    ],
    ids=lambda v: " ".join(v),
)
def test_what_was_derived_is_derived_anew_when_what_it_follows_from_is_given(kind, given, after):
    recipe = finished(kind).override(given)
    assert not recipe.start.resolved
    assert {name: recipe.flat()[name] for name in after} == after


def test_rows_of_other_data_or_batches_are_cut_anew():
    assert finished(SftRecipe).override({"data": ["b.jsonl"]}).flat()["seq_len"] is None
    for change in ({"data": ["b.jsonl"]}, {"batch_size": 12}, {"seq_len": 128}):
        assert finished(SftRecipe).override(change).flat()["micro_batch"] is None


@pytest.mark.parametrize("kind", [SftRecipe, DpoRecipe])
def test_a_finished_recipe_stays_fixed_where_nothing_follows_from_what_is_given(kind):
    same = finished(kind).override({"steps": "60", "data": ["a.jsonl"], "lr": "1e-3", "model": "again-1"})
    assert same == finished(kind).replaced({"lr": 1e-3, "model": "again-1"})
    with pytest.raises(RecipeError, match="contradict"):
        finished(kind).override({"steps": "8", "epochs": "2"})


def test_practice_derives_its_rhythm_anew():
    recipe = GrpoRecipe.of(steps=60, warmup=2, save_every=15, eval_every=15, lr=1e-5, resolved=True).override({"steps": 8})
    assert {name: recipe.flat()[name] for name in FOLLOW} == FOLLOW and not recipe.start.resolved


def test_a_teacher_is_asked_anew_for_a_changed_distillation_and_its_old_traces_are_not_its_data():
    old = DistillRecipe.of(
        tasks=["addition"], data=[], teacher="t", steps=60, epochs=20.0, lr=1e-4, seq_len=64, micro_batch=8, resolved=True
    ).replaced({"data": ("traces.jsonl",)})
    for change in ({"steps": 8}, {"asked": 50}, {"tasks": ["sorting"]}):
        assert old.override(change).flat()["data"] == () and not old.override(change).start.resolved
    assert old.override({"lr": 1e-3}).flat()["data"] == ("traces.jsonl",)


@pytest.mark.parametrize(
    ("rows", "batch", "epochs"), [(37, 4, 2.0), (37, 16, 1.0), (19999, 7, 3.0), (5, 8, 0.1), (10**6, 1, 1.0)]
)
def test_the_passes_that_a_run_saves_give_its_steps_again(rows, batch, epochs):
    steps = max(1, math.ceil(rows * epochs / batch))
    assert steps_of(epochs, rows, batch) == steps
    assert steps_of(round(steps * batch / rows, 12), rows, batch) == steps
