"""The largest change of any pixel's channel."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from steppe.robustness.attacks import NORMS, Ball
from steppe.robustness.draws import Draws


@NORMS.register("linf")
class Linf(Ball):
    """max |d_i|; the steepest direction is the sign."""

    order = math.inf

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient.sign()

    def project(self, moved: Tensor, eps: Tensor) -> Tensor:
        return torch.minimum(torch.maximum(moved, -eps), eps)

    def start(self, draws: Draws, shape: tuple[int, ...], eps: Tensor) -> Tensor:
        return draws.uniform(*shape, low=-1.0, high=1.0) * eps

    def size(self, moved: Tensor) -> Tensor:
        return moved.abs().flatten(1).amax(1)
