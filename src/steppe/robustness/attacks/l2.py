"""The Euclidean length of the change of an image."""

from __future__ import annotations

import torch
from torch import Tensor

from steppe.robustness.attacks import NORMS, Ball
from steppe.robustness.draws import Draws


@NORMS.register("l2")
class L2(Ball):
    """sqrt(sum of d_i^2) of each image; the steepest direction is the gradient's."""

    order = 2.0

    def ascent(self, gradient: Tensor) -> Tensor:
        return gradient / self._lengths(gradient).clamp_min(1e-30)

    def project(self, moved: Tensor, eps: Tensor) -> Tensor:
        return moved * (eps / self._lengths(moved).clamp_min(1e-30)).clamp(max=1.0)

    def start(self, draws: Draws, shape: tuple[int, ...], eps: Tensor) -> Tensor:
        direction = draws.normal(*shape)
        share = draws.uniform(1, 1, 1) ** (1.0 / direction[0].numel())
        return direction * (eps * share / self._lengths(direction))

    def size(self, moved: Tensor) -> Tensor:
        lengths: Tensor = torch.linalg.vector_norm(moved.flatten(1), dim=1)
        return lengths

    def _lengths(self, moved: Tensor) -> Tensor:
        return self.size(moved).view(-1, 1, 1, 1)
