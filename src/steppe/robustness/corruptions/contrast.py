"""Less contrast."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption("contrast", small=(0.75, 0.5, 0.4, 0.3, 0.15), large=(0.4, 0.3, 0.2, 0.1, 0.05))
def contrast(x: Tensor, factor: float, draws: Draws) -> Tensor:
    """mean + factor (x - mean), the mean of each channel of each image."""
    mean = x.mean((2, 3), keepdim=True)
    return (x - mean).mul_(factor).add_(mean)
