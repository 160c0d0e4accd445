"""Bisection over an option: the fewest runs, and plain words where it cannot work."""

import math

import pytest

from steppe import SteppeError
from steppe.engine.bisection import bisect


def sigmoid(value):
    return 1 / (1 + math.exp(-math.log10(value) - 3.3))


@pytest.mark.parametrize("target", [0.2, 0.5, 0.9])
def test_reached_within_the_tolerance(target):
    found = bisect(sigmoid, target, 1e-8, 1e2, tries=20, tolerance=0.005)
    assert abs(found[-1][1] - target) <= 0.005
    assert all(abs(outcome - target) > 0.005 for _, outcome in found[:-1])
    assert found[2][0] == pytest.approx(1e-3)


def test_no_more_than_so_many_tries():
    assert len(bisect(sigmoid, 0.5, 1e-8, 1e2, tries=5, tolerance=1e-9)) == 5


def test_an_end_may_do():
    assert len(bisect(sigmoid, sigmoid(1e-4), 1e-4, 1.0)) == 1
    assert len(bisect(sigmoid, sigmoid(1.0), 1e-4, 1.0)) == 2


@pytest.mark.parametrize(("target", "way"), [(0.999, "higher --high"), (0.001, "lower --low")])
def test_a_target_outside_says_which_end(target, way):
    with pytest.raises(SteppeError, match=way):
        bisect(sigmoid, target, 1e-5, 1e-1, tolerance=1e-4)


@pytest.mark.parametrize("given", [{"low": 0.0}, {"high": 1e-6}, {"tries": 1}, {"tolerance": 0.0}])
def test_wrong_ranges(given):
    with pytest.raises(SteppeError):
        bisect(sigmoid, 0.5, **({"low": 1e-5, "high": 1e-1} | given))


def test_an_option_without_effect_is_said():
    with pytest.raises(SteppeError, match="must change the outcome"):
        bisect(lambda v: 0.0, 0.5, 1.0, 10.0)
