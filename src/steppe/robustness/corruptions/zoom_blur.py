"""The camera zoomed while the shutter was open."""

from __future__ import annotations

import numpy as np
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import zoomed


@corruption(
    "zoom_blur",
    small=((1.06, 0.01), (1.11, 0.01), (1.16, 0.01), (1.21, 0.01), (1.26, 0.01)),
    large=((1.11, 0.01), (1.16, 0.01), (1.21, 0.02), (1.26, 0.02), (1.31, 0.03)),
)
def zoom_blur(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    """The mean of the image and of zooms into it by 1, 1 + step, ... below ``stop``."""
    stop, step = c
    factors = tuple(float(z) for z in np.arange(1, stop, step))
    return zoomed(x, factors).add_(x).div_(len(factors) + 1)
