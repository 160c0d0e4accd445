"""Normal noise on each value."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption(
    "gaussian_noise", small=(0.04, 0.06, 0.08, 0.09, 0.10), large=(0.08, 0.12, 0.18, 0.26, 0.38)
)
def gaussian_noise(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """x + sigma n, n standard normal."""
    return draws.normal(*x.shape[1:]).mul_(sigma).add_(x)
