"""The camera moved while the shutter was open."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import motion


@corruption(
    "motion_blur",
    small=((6, 1), (6, 1.5), (6, 2), (8, 2), (9, 2.5)),
    large=((10, 3), (15, 5), (15, 8), (15, 12), (20, 15)),
)
def motion_blur(x: Tensor, c: tuple[int, float], draws: Draws) -> Tensor:
    """Half a Gaussian along a line, its angle uniform in [-45, 45) degrees for each image."""
    radius, sigma = c
    return motion(x, radius, sigma, draws.uniform(low=-45.0, high=45.0))
