"""The time dial: measured speeds in, size and tokens out."""

import pytest

from seekling import dial
from seekling.errors import MachineError
from seekling.machine import Machine
from seekling.recipe import Recipe, model_config, resolve
from seekling.sizes import SIZES, size_config

ACTIVE = {name: size_config(name).parameters().active for name in SIZES}


def machine(memory: int = 1 << 45) -> Machine:
    return Machine("x", 2, 2, None, ("avx2",), memory, memory, 1 << 40, None)


def speed(operations: float):
    """A pretended machine: tokens a second of a recipe, and the sizes it was asked about."""
    asked: list[str] = []

    def rate(recipe: Recipe) -> float:
        asked.append(recipe.run.size)
        return operations / (6 * model_config(recipe).parameters().active)

    return rate, asked


def test_the_biggest_size_with_three_tokens_an_active_parameter_is_picked():
    rates = [("nano", 10, 100.0), ("micro", 30, 40.0), ("milli", 60, 15.0)]
    assert dial.pick(rates, 9.0) == ("micro", 360, 40.0)
    assert dial.pick(rates, 2.0) == ("nano", 200, 100.0)


def test_when_none_sees_enough_the_smallest_is_taken():
    assert dial.pick([("nano", 1000, 1.0), ("micro", 3000, 0.3)], 10.0) == ("nano", 10, 1.0)


@pytest.mark.parametrize("minutes", [1, 10, 100, 1000])
def test_more_time_never_means_a_smaller_model_or_fewer_tokens(minutes):
    rate, _ = speed(1e11)
    less = dial.choose(Recipe.of(minutes=minutes), machine(), rate)
    more = dial.choose(Recipe.of(minutes=minutes * 2), machine(), rate)
    order = list(SIZES)
    assert order.index(more.size) >= order.index(less.size)
    assert more.tokens / ACTIVE[more.size] > 0 and more.tokens * ACTIVE[more.size] >= less.tokens * ACTIVE[less.size]


def test_the_choice_fits_the_time_and_obeys_the_rule():
    rate, asked = speed(1e12)
    choice = dial.choose(Recipe.of(minutes=30), machine(), rate)
    assert choice.tokens <= choice.rate * 30 * 60
    assert choice.tokens / ACTIVE[choice.size] >= dial.MIN_TOKENS_PER_PARAMETER
    bigger = list(SIZES)[list(SIZES).index(choice.size) + 1]
    assert asked[-1] == bigger and 1e12 * choice.seconds / 6 / ACTIVE[bigger] ** 2 < dial.MIN_TOKENS_PER_PARAMETER


def test_no_candidate_is_measured_after_one_fell_short():
    rate, asked = speed(1e9)
    dial.choose(Recipe.of(minutes=10), machine(), rate)
    assert asked == ["nano"]


def test_a_size_that_was_asked_for_is_the_only_candidate():
    rate, asked = speed(1e12)
    assert dial.choose(Recipe.of(minutes=10, size="milli"), machine(), rate).size == "milli"
    assert asked == ["milli"]


def test_what_the_user_set_is_measured():
    seen = []

    def rate(recipe):
        seen.append(recipe)
        return 1e4

    dial.choose(Recipe.of(minutes=10, size="nano", seq_len=64, batch_size=2, hidden_size=32), machine(), rate)
    assert (seen[0].data.seq_len, seen[0].train.batch_size, seen[0].model.hidden_size) == (64, 2, 32)


def test_a_size_that_does_not_fit_into_memory_is_passed_over():
    rate, asked = speed(1e18)
    choice = dial.choose(Recipe.of(minutes=600), machine(memory=2 << 30), rate)
    assert choice.size == "milli" and asked == ["nano", "micro", "milli"]
    assert "needs more memory" in choice.tried[-1]


def test_each_candidate_is_told():
    rate, _ = speed(1e11)
    said = []
    choice = dial.choose(Recipe.of(minutes=10), machine(), rate, said.append)
    assert tuple(said) == choice.tried and all("tokens/s" in line for line in said)


def test_a_budget_too_short_names_one_that_is_long_enough():
    with pytest.raises(MachineError, match="give --minutes") as caught:
        dial.choose(Recipe.of(minutes=0.01, size="nano"), machine(), lambda _: 1000.0)
    enough = float(str(caught.value).split("give --minutes ")[1].split()[0])
    assert dial.choose(Recipe.of(minutes=enough, size="nano"), machine(), lambda _: 1000.0).tokens > 0


def test_a_budget_is_refused_only_after_a_second_measurement():
    rates = iter([1.0, 5000.0])
    choice = dial.choose(Recipe.of(minutes=2, size="nano"), machine(), lambda _: next(rates))
    assert choice.rate == 5000.0


def test_setup_and_evaluation_are_part_of_the_budget():
    assert dial.training_seconds(10) == pytest.approx((600 - 60) * 0.95)
    assert dial.training_seconds(1) == pytest.approx(60 * 0.6 * 0.95)


def test_resolving_fixes_the_choice(monkeypatch):
    monkeypatch.setattr(dial, "step_rate", lambda recipe: 5000.0)
    resolved = resolve(Recipe.of(minutes=10, size="nano"), machine())
    assert resolved.train.tokens == pytest.approx(5000 * dial.training_seconds(10), rel=0.01)
    monkeypatch.setattr(dial, "step_rate", lambda recipe: pytest.fail("a fixed recipe must not be measured again"))
    again = Recipe.from_toml(resolved.to_toml())
    assert again == resolved and resolve(again, machine()) == resolved
