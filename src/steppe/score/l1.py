"""The sum of a group's magnitudes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("l1")
@dataclass(frozen=True, kw_only=True)
class L1(Score):
    """sum |w| of a group; magnitude for single weights. Source: Li et al. 2017."""

    name = "l1"

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.abs().sum(-1)
