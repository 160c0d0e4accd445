"""Water or mud on the lens."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.filters import blur, convolve
from steppe.robustness.planes import box_mean, chamfer, edges, equalised

_WATER = (175 / 255, 238 / 255, 238 / 255)
_MUD = (63 / 255, 42 / 255, 20 / 255)
_EMBOSS = ((-2.0, -1.0, 0.0), (-1.0, 1.0, 1.0), (0.0, 1.0, 2.0))


@corruption(
    "spatter",
    small=(
        (0.62, 0.1, 0.7, 0.7, 0.5, 0),
        (0.65, 0.1, 0.8, 0.7, 0.5, 0),
        (0.65, 0.3, 1, 0.69, 0.5, 0),
        (0.65, 0.1, 0.7, 0.69, 0.6, 1),
        (0.65, 0.1, 0.5, 0.68, 0.6, 1),
    ),
    large=(
        (0.65, 0.3, 4, 0.69, 0.6, 0),
        (0.65, 0.3, 3, 0.68, 0.6, 0),
        (0.65, 0.3, 2, 0.68, 0.5, 0),
        (0.65, 0.3, 1, 0.65, 1.5, 1),
        (0.67, 0.4, 1, 0.65, 1.5, 1),
    ),
    extra=True,
)
def spatter(x: Tensor, c: tuple[float, ...], draws: Draws) -> Tensor:
    """Drops where blurred normal noise (mean, deviation, sigma) is above a threshold.

    Mud covers what is below it. Water brightens, the more the farther from a drop's rim and on
    the side away from the light. Images without a drop stay as they are; the released code
    divides 0 by 0 there.
    """
    mean, deviation, sigma, threshold, strength, mud = c
    noise = draws.normal(1, *x.shape[2:]).mul_(deviation).add_(mean)
    liquid = blur(noise, sigma)
    if mud:
        cover = blur((liquid > threshold).float(), strength)
        cover = torch.where(cover < 0.8, 0.0, cover)
        return x * (1.0 - cover) + cover * _colour(_MUD, x)
    eight = torch.where(liquid < threshold, 0.0, liquid).mul_(255.0).floor_() % 256.0
    depth = eight * _relief(eight[:, 0])[:, None]
    most = depth.amax((2, 3), keepdim=True)
    depth = torch.where(most > 0.0, depth / most, 0.0)
    return x + strength * depth * _colour(_WATER, x)


def _relief(liquid: Tensor) -> Tensor:
    """How brightly each place of the water shines, ``[n, h, w]``."""
    distance = chamfer(edges(liquid, 50.0, 150.0)).clamp_(max=20.0)
    even = equalised(box_mean(distance).floor_())
    kernel = torch.tensor(_EMBOSS, device=liquid.device)
    raised = convolve(even[:, None], kernel)[:, 0].clamp_(0.0, 255.0)
    return box_mean(raised).add_(0.5).floor_()


def _colour(rgb: tuple[float, float, float], like: Tensor) -> Tensor:
    return torch.tensor(rgb, device=like.device).view(1, 3, 1, 1)
