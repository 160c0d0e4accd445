"""Normal noise in proportion to the value."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption(
    "speckle_noise",
    small=(0.06, 0.1, 0.12, 0.16, 0.2),
    large=(0.15, 0.2, 0.35, 0.45, 0.6),
    extra=True,
)
def speckle_noise(x: Tensor, sigma: float, draws: Draws) -> Tensor:
    """x + sigma x n, n standard normal."""
    return draws.normal(*x.shape[1:]).mul_(sigma).add_(1.0).mul_(x)
