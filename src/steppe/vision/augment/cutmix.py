"""A box of one image in another, the labels by their areas."""

from __future__ import annotations

import math
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from torch import Tensor

from steppe.vision.augment import AUGMENTATIONS
from steppe.vision.augment.kinds import Mixing
from steppe.vision.augment.mixup import check_alpha


@AUGMENTATIONS.register("cutmix")
@dataclass(frozen=True)
class CutMix(Mixing):
    """A box of the partner's pixels at a random place, the same box for a whole batch.

    Its area is a share ``1 - l``, ``l ~ Beta(a, a)``, of the image's; what lies outside of the
    image is cut off, and labels are mixed by the area that is left.

    Args:
        alpha: a.

    Raises:
        SteppeError: alpha is not positive.

    Source: Yun et al. 2019, https://arxiv.org/abs/1905.04899.

    Example:
        >>> import torch
        >>> CutMix()(torch.ones(1, 1, 1, 2), torch.zeros(1, 1, 1, 2), (0.5, 0, 1, 0, 1))
        tensor([[[[0., 1.]]]])
    """

    name: ClassVar[str] = "cutmix"
    alpha: float = 1.0

    def __post_init__(self) -> None:
        check_alpha(self.name, self.alpha)

    def draw(self, height: int, width: int, random: Random) -> tuple[float, ...]:
        side = math.sqrt(1 - random.betavariate(self.alpha, self.alpha))
        x, y = random.randrange(width), random.randrange(height)
        half_w, half_h = int(width * side) // 2, int(height * side) // 2
        left, right = max(x - half_w, 0), min(x + half_w, width)
        top, bottom = max(y - half_h, 0), min(y + half_h, height)
        own = 1 - (right - left) * (bottom - top) / (width * height)
        return (own, left, right, top, bottom)

    def __call__(self, images: Tensor, partners: Tensor, draws: tuple[float, ...]) -> Tensor:
        left, right, top, bottom = map(int, draws[1:])
        mixed = images.clone()
        mixed[:, :, top:bottom, left:right] = partners[:, :, top:bottom, left:right]
        return mixed
