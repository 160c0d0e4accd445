"""Two images and their labels, averaged."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random
from typing import ClassVar

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.augment import AUGMENTATIONS
from steppe.vision.augment.kinds import Mixing


@AUGMENTATIONS.register("mixup")
@dataclass(frozen=True)
class Mixup(Mixing):
    """``x = l x_i + (1 - l) x_j``, ``y = l y_i + (1 - l) y_j``, one ``l ~ Beta(a, a)`` for a batch.

    Args:
        alpha: a; small ones leave most images nearly as they are.

    Raises:
        SteppeError: alpha is not positive.

    Source: Zhang et al. 2018, https://arxiv.org/abs/1710.09412.

    Example:
        >>> Mixup()(torch.ones(1, 1, 1, 1), torch.zeros(1, 1, 1, 1), (0.75,)).item()
        0.75
    """

    name: ClassVar[str] = "mixup"
    alpha: float = 0.2

    def __post_init__(self) -> None:
        check_alpha(self.name, self.alpha)

    def draw(self, height: int, width: int, random: Random) -> tuple[float, ...]:
        return (random.betavariate(self.alpha, self.alpha),)

    def __call__(self, images: Tensor, partners: Tensor, draws: tuple[float, ...]) -> Tensor:
        return torch.lerp(partners, images, draws[0])


def check_alpha(name: str, alpha: object) -> None:
    """Whether it is one of a Beta distribution.

    Raises:
        SteppeError: it is not positive.

    Example:
        >>> check_alpha("mixup", 0.2)
    """
    if not (isinstance(alpha, int | float) and alpha > 0):
        raise SteppeError(f"{name}: alpha must be positive", got=repr(alpha))
