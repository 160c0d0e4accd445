"""The trace of Hessians that are known."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.robustness.hessian_trace import hessian_trace

_SPEC = importlib.util.spec_from_file_location(
    "quadratics", Path(__file__).parent / "test_sharpness.py"
)
quadratics = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(quadratics)
BATCHES, mean = quadratics.BATCHES, quadratics.mean


def test_exact_where_the_hessian_is_diagonal():
    model = quadratics.Quadratic(np.diag([1.0, 5.0, -2.0]), np.ones(3))
    estimate = hessian_trace(model, mean, BATCHES, draws=3)
    assert estimate.mean == pytest.approx(4.0)
    assert estimate.error == pytest.approx(0.0, abs=1e-12)
    masks = {"w": torch.tensor([True, False, True])}
    assert hessian_trace(model, mean, BATCHES, draws=2, masks=masks).mean == pytest.approx(-1.0)


def test_within_its_error_where_it_is_not():
    a, b = quadratics.problem(20, 3)
    estimate = hessian_trace(quadratics.Quadratic(a, b), mean, BATCHES, draws=400)
    off = a - np.diag(np.diag(a))
    assert estimate.error == pytest.approx(np.sqrt(2 * (off**2).sum() / 400), rel=0.2)
    assert abs(estimate.mean - np.trace(a)) < 4 * estimate.error


def test_one_draw_has_no_error_and_none_is_refused():
    model = quadratics.Quadratic(np.eye(2), np.zeros(2))
    assert hessian_trace(model, mean, BATCHES, draws=1).error == float("inf")
    with pytest.raises(SteppeError, match="one draw at least"):
        hessian_trace(model, mean, BATCHES, draws=0)
