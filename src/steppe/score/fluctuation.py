"""Weight times how much its input varies."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.calibration_statistics import CALIBRATION, Accumulator
from steppe.core.protocols import Score


@Score.registry.register("fluctuation")
@dataclass(frozen=True, kw_only=True)
class Fluctuation(Score):
    """|w_ij| std(x_j): an input that hardly varies can be replaced by its mean.

    Of whole inputs the norm over what reads them is taken: sqrt(sum_i w_ij^2 var(x_j)).

    Source: FLAP (An et al. 2024, arXiv 2312.11983), WIFV, whose square it is.
    """

    name = "fluctuation"
    calibrated = True
    needs = ("activation_variance",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["activation_variance"].sqrt()


class _TwoMoments(Accumulator):
    """Sums of x_j and x_j^2, ``[2, columns]``, in float64: their difference loses digits."""

    columnwise = True

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(2, columns, device=device, dtype=torch.float64)

    def _add(self, x: Tensor) -> None:
        wide = x.double()
        self.sum += torch.stack([wide.sum(0), wide.square().sum(0)])


@CALIBRATION.register("activation_variance")
class InputVariance(_TwoMoments):
    """E[x_j^2] - E[x_j]^2, ``[1, columns]``."""

    name = "activation_variance"

    def mean(self) -> Tensor:
        first, second = super().mean()
        self.sum = (second - first.square()).clamp_min_(0.0).float()[None]
        return self.sum
