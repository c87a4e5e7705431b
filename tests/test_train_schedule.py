"""Shapes of the schedules at their corners, and the V3 numbers."""

import dataclasses
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from seekling.errors import RecipeError
from seekling.recipe import TrainPart
from seekling.train.schedule import Schedule, Schedules, constant_then_decay, piecewise, v3_schedule


def test_warm_up_rises_linearly_and_never_starts_at_zero():
    s = Schedule(1.0, 100, warmup=4, decay_start=50)
    assert [round(s(i), 3) for i in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]


def test_constant_then_cosine_to_the_floor():
    s = constant_then_decay(2.0, 100, 0, hold=0.6, floor=0.1)
    assert s(0) == s(60) == 2.0
    assert s(80) == pytest.approx(2.0 * (0.1 + 0.9 * 0.5))
    assert s(100) == pytest.approx(0.2) and s(1000) == pytest.approx(0.2)
    assert s(99) > s(100)


def test_v3_shape_has_the_report_s_values_at_the_report_s_tokens():
    steps = 14_800  # a step is a billion tokens
    s = v3_schedule(2.2e-4, steps, warmup=0)
    assert s(9_999) == 2.2e-4
    assert s(14_299) == pytest.approx(2.2e-5, rel=1e-3)
    assert s(14_400) == pytest.approx(2.2e-5)
    assert s(14_700) == pytest.approx(7.3e-6)


def test_linear_decay_is_linear():
    s = Schedule(1.0, 10, kind="linear", floor=0.0)
    assert s(5) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "fields, word",
    [
        (dict(peak=0.0, steps=10), "above 0"),
        (dict(peak=1.0, steps=0), "at least 1"),
        (dict(peak=1.0, steps=10, warmup=11), "does not fit"),
        (dict(peak=1.0, steps=10, floor=2.0), "0..1"),
        (dict(peak=1.0, steps=10, decay_start=9, decay_end=3), "before it starts"),
        (dict(peak=1.0, steps=10, kind="square"), "cosine or linear"),
    ],
)
def test_impossible_schedules_are_refused(fields, word):
    with pytest.raises(RecipeError, match=word):
        Schedule(**fields)


@settings(max_examples=60)
@given(st.integers(1, 500), st.floats(0, 1), st.floats(0, 1), st.data())
def test_after_the_warm_up_the_rate_only_falls_and_stays_between_floor_and_peak(steps, hold, floor, data):
    warmup = data.draw(st.integers(0, steps))
    s = constant_then_decay(1.0, steps, warmup, hold, floor)
    rates = [s(i) for i in range(warmup, steps + 1)]
    assert all(a >= b - 1e-12 for a, b in itertools.pairwise(rates))
    assert all(floor - 1e-12 <= r <= 1.0 for r in rates)
    assert all(0 < s(i) <= 1.0 for i in range(warmup))


def test_piecewise_takes_the_last_piece_that_has_begun():
    assert [piecewise(((0, 0.3), (5, 0.1)), i) for i in (0, 4, 5, 99)] == [0.3, 0.3, 0.1, 0.1]


def part(**changes) -> TrainPart:
    return dataclasses.replace(TrainPart(), **{"steps": 100, "warmup": 4, "lr": 1e-3, "bias_update_speed": 0.01, **changes})


def test_the_mtp_weight_falls_when_the_decay_starts_and_the_router_bias_freezes_at_the_end():
    s = Schedules.of(part(schedule="wsd", decay_fraction=0.4, bias_freeze_fraction=0.05))
    assert [piecewise(s.mtp_weight, i) for i in (0, 59, 60)] == [0.3, 0.3, 0.1]
    assert [piecewise(s.router_speed, i) for i in (0, 94, 95, 99)] == [0.01, 0.01, 0.0, 0.0]


@pytest.mark.parametrize("kind, last", [("wsd", 0.1), ("cosine", 0.1), ("constant", 1.0), ("v3", 7.3e-6 / 2.2e-4)])
def test_every_schedule_of_the_recipe_ends_where_it_says(kind, last):
    assert Schedules.of(part(schedule=kind)).lr.share(100) == pytest.approx(last)
