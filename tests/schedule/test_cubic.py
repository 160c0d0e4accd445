"""Zhu & Gupta's cubic and when it cuts."""

import pytest

from steppe import SteppeError
from steppe.schedule.cubic import Cubic


def test_equation_1():
    """s_t = s_f + (s_i - s_f) (1 - (t - t0) / (n dt))^3, clamped outside."""
    schedule = Cubic(start=0.2, end=0.7, initial=0.1)
    for t in range(101):
        p = min(max((t - 20) / 50, 0.0), 1.0)
        expected = 0.9 + (0.1 - 0.9) * (1 - p) ** 3
        assert schedule.sparsity(t / 100, 0.9) == pytest.approx(expected, abs=1e-12)


def test_cuts_every_so_many_steps_and_at_the_end():
    schedule = Cubic(start=0.1, end=0.75, every=20)
    cuts = [t + 1 for t in range(100) if schedule.due(t, 100)]
    assert cuts == [30, 50, 70, 75]


@pytest.mark.parametrize(
    "options", [{"start": 0.5, "end": 0.5}, {"end": 1.1}, {"start": -0.1}, {"every": 0}]
)
def test_impossible_ramps(options):
    with pytest.raises(SteppeError, match="schedule needs"):
        Cubic(**options)
