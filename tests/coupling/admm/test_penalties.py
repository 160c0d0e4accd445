"""Penalties that are numbers: from their start to their end."""

from __future__ import annotations

import math

import pytest

from steppe.core.curves import CURVES, curve
from steppe.coupling.admm.penalties import PENALTIES


@pytest.mark.parametrize("name", sorted(PENALTIES))
def test_from_the_start_to_the_end(name: str) -> None:
    blend = PENALTIES[name]
    assert blend(0.5, 2.0, 1.0) == pytest.approx(2.0)
    assert blend(0.5, 2.0, 0.0) == (2.0 if name == "constant" else 0.5)
    values = [blend(0.5, 2.0, i / 10) for i in range(11)]
    assert values == sorted(values)


@pytest.mark.parametrize("name", sorted(CURVES))
def test_from_0_they_are_the_curves_to_the_last_bit(name: str) -> None:
    for step in range(7):
        assert PENALTIES[name](0.0, 1e-3, step / 7) == 1e-3 * curve(name, step / 7)


def test_the_papers_cosine_and_exponential() -> None:
    start, end, step, total = 1e-3, 1e-1, 96, 4096
    cosine = start + (end - start) * (1 - math.cos(math.pi * step / total)) / 2
    assert PENALTIES["cosine"](start, end, step / total) == pytest.approx(cosine, rel=1e-14)
    logarithm = math.log(start) + (math.log(end) - math.log(start)) * step / total
    exponential = PENALTIES["exponential"](start, end, step / total)
    assert exponential == pytest.approx(math.exp(logarithm), rel=1e-12)
