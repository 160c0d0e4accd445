"""Weight times the norm of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("wanda")
@dataclass(frozen=True, kw_only=True)
class Wanda(Score):
    """|w_ij| ||x_j||_2 with the norm averaged over samples. Source: Sun et al. 2024, eq. 1."""

    name = "wanda"
    needs = ("activation_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["activation_square"].sqrt()
