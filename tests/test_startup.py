"""What a start does beside its work."""

import gc

import pytest
from engine_tiny import tiny_lm

from seekling import Engine
from seekling.startup import without_collecting


def test_garbage_is_collected_again_after_loading_and_after_an_error():
    assert gc.isenabled()
    Engine(tiny_lm())
    assert gc.isenabled()
    with pytest.raises(ValueError, match="x"), without_collecting():
        assert not gc.isenabled()
        raise ValueError("x")
    assert gc.isenabled()


def test_who_collects_by_himself_is_left_alone():
    gc.disable()
    try:
        with without_collecting():
            pass
        assert not gc.isenabled()
    finally:
        gc.enable()
