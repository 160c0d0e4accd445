"""First-order change of the loss."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.part import Score


@Score.registry.register("taylor")
@dataclass(frozen=True, kw_only=True)
class Taylor(Score):
    """|sum over the group of E[g] w|, the loss change to first order.

    Source: Molchanov et al. 2019.
    """

    name = "taylor"
    needs = ("gradient",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["gradient"]

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)
