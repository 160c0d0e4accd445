"""Curves rise from 0 to 1."""

from itertools import pairwise

import pytest

from steppe import SteppeError
from steppe.core.curves import CURVES, curve


@pytest.mark.parametrize("name", list(CURVES))
def test_from_0_to_1(name):
    values = [curve(name, i / 100) for i in range(101)]
    assert values[-1] == pytest.approx(1.0)
    assert values[0] == (1.0 if name == "constant" else 0.0)
    assert all(a <= b for a, b in pairwise(values))
    assert curve(name, -1.0) == values[0]
    assert curve(name, 2.0) == values[-1]


def test_unknown():
    with pytest.raises(SteppeError, match="did you mean cosine"):
        curve("cosin", 0.5)
