"""Settings of every test: the same numbers on every machine and in every order, and as quick beside other work.

`pytest --hypothesis-profile explore` draws new examples instead of the same ones.
"""

import os
import random

os.environ.setdefault("GOMP_SPINCOUNT", "2000")  # threads that sleep instead of spinning

import numpy
import pytest
import torch
from hypothesis import HealthCheck, settings

settings.register_profile("explore", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.register_profile("fixed", settings.get_profile("explore"), derandomize=True, database=None)
settings.load_profile("fixed")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
    """What a test draws without a seed of its own does not depend on the tests before it."""
    random.seed(0)
    numpy.random.seed(0)
    torch.manual_seed(0)
