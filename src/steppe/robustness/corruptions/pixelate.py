"""Large pixels."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import box_resize


@corruption("pixelate", small=(0.95, 0.9, 0.85, 0.75, 0.65), large=(0.6, 0.5, 0.4, 0.3, 0.25))
def pixelate(x: Tensor, share: float, draws: Draws) -> Tensor:
    """Made smaller with a box filter, and large again; eight bits, as Pillow does it."""
    h, w = x.shape[2:]
    eight = (x * 255.0).round_()
    small = box_resize(eight, max(int(h * share), 1), max(int(w * share), 1))
    return box_resize(small, h, w).div_(255.0)
