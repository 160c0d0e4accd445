"""Photons are counted: the fewer, the noisier."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws


@corruption("shot_noise", small=(500, 250, 100, 75, 50), large=(60, 25, 12, 5, 3))
def shot_noise(x: Tensor, photons: float, draws: Draws) -> Tensor:
    """Poisson(photons x) / photons."""
    return draws.poisson(x * photons).div_(photons)
