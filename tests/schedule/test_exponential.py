"""A constant share of what remains."""

from itertools import pairwise

import pytest

from steppe.schedule.exponential import Exponential


def test_the_same_share_of_what_remains_goes_at_each_step():
    schedule = Exponential()
    dense = [1 - schedule.sparsity(t / 50, 0.95) for t in range(51)]
    ratios = [b / a for a, b in pairwise(dense)]
    assert ratios == pytest.approx([0.05 ** (1 / 50)] * 50)
