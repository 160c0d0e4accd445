"""Average sharpness on quadratics: rho^2 tr(H) / 2 n."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.robustness.average_sharpness import average_sharpness

_SPEC = importlib.util.spec_from_file_location(
    "quadratics", Path(__file__).parent / "test_sharpness.py"
)
quadratics = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quadratics)
BATCHES, mean = quadratics.BATCHES, quadratics.mean


@pytest.mark.parametrize("adaptive", [False, True])
def test_quadratic(adaptive):
    n, rho = 8, 0.3
    a, b = quadratics.problem(n, 0)
    w = np.random.default_rng(1).standard_normal(n)
    estimate = average_sharpness(
        quadratics.Quadratic(a, b, w), mean, BATCHES, rho=rho, draws=4000, adaptive=adaptive
    )
    weight = w**2 if adaptive else np.ones(n)
    expected = rho**2 / n * (np.diag(a) * weight).sum() / 2
    assert abs(estimate.mean - expected) < 4 * estimate.error
    assert estimate.error < 0.1 * abs(expected) + 1e-3
    assert estimate.draws == 4000


def test_the_slope_cancels_and_masks_hold_weights_still():
    b = np.array([3.0, -2.0])
    flat = average_sharpness(quadratics.Quadratic(np.zeros((2, 2)), b), mean, BATCHES, rho=1.0)
    assert abs(flat.mean) < 1e-12
    model = quadratics.Quadratic(np.diag([2.0, 50.0]), np.zeros(2))
    masks = {"w": torch.tensor([True, False])}
    estimate = average_sharpness(model, mean, BATCHES, rho=0.5, draws=3000, masks=masks)
    assert abs(estimate.mean - 0.25) < 4 * estimate.error
    assert torch.equal(model.w, torch.zeros(2, dtype=torch.float64))


def test_what_cannot_work():
    model = quadratics.Quadratic(np.eye(2), np.zeros(2))
    for more in ({"rho": 0.0}, {"rho": 1.0, "draws": 0}):
        with pytest.raises(SteppeError, match="average sharpness needs"):
            average_sharpness(model, mean, BATCHES, **more)
    broken = quadratics.Quadratic(np.eye(2) * np.nan, np.zeros(2))
    with pytest.raises(SteppeError, match="must be finite"):
        average_sharpness(broken, mean, BATCHES, rho=1.0)
