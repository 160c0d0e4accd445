"""Out of focus: blurred by a disk."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import convolve, disk


@corruption(
    "defocus_blur",
    small=((0.3, 0.4), (0.4, 0.5), (0.5, 0.6), (1, 0.2), (1.5, 0.1)),
    large=((3, 0.1), (4, 0.5), (6, 0.5), (8, 0.5), (10, 0.5)),
)
def defocus_blur(x: Tensor, c: tuple[float, float], draws: Draws) -> Tensor:
    """Convolution with a disk whose rim is smoothed; edges mirrored."""
    return convolve(x, disk(*c))
