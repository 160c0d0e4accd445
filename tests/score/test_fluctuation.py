"""How much inputs vary, beside torch.var."""

from __future__ import annotations

import pytest
import torch

from steppe.core.calibration_statistics import CALIBRATION
from steppe.score.fluctuation import Fluctuation

DEVICE = torch.device("cpu")


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e3, 1e5])
@pytest.mark.parametrize("parts", [1, 7])
def test_variance(mean: float, parts: int) -> None:
    """Of float32 inputs whose squares float32 could not tell apart."""
    x = torch.randn(2100, 6) * torch.linspace(0.5, 3.0, 6) + mean
    made = CALIBRATION["activation_variance"](6, DEVICE)
    for part in x.chunk(parts):
        made.add(part)
    found = made.mean()
    assert found.dtype == torch.float32
    expected = x.double().var(0, correction=0, keepdim=True)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=0)


def test_a_constant_input_has_none() -> None:
    made = CALIBRATION["activation_variance"](2, DEVICE)
    made.add(torch.tensor([[0.1, 3e4]]).expand(999, 2))
    assert bool((made.mean() < 1e-6 * 9e8).all())
    assert bool((made.sum >= 0).all())


def test_of_whole_inputs() -> None:
    """Its square is the variance of what an input gives to all outputs (WIFV)."""
    x, weight = torch.randn(500, 4) * torch.arange(1, 5), torch.randn(3, 4)
    variance = x.var(0, correction=0, keepdim=True)
    score = Fluctuation()
    saliency = score.score(weight, {"activation_variance": variance}, "w")
    given = torch.stack([torch.outer(x[:, j], weight[:, j]) for j in range(4)])
    expected = given.var(1, correction=0).sum(1)
    units = score.reduce(saliency.T)
    torch.testing.assert_close(units.square(), expected)
