"""Blurred by a Gaussian."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import blur


@corruption("gaussian_blur", small=(0.4, 0.6, 0.7, 0.8, 1), large=(1, 2, 3, 4, 6), extra=True)
def gaussian_blur(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """Convolution with exp(-d^2 / 2 sigma^2), cut at 4 sigma; edges repeated."""
    return blur(x, sigma)
