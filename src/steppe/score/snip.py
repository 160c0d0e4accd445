"""Connection sensitivity."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("snip")
@dataclass(frozen=True, kw_only=True)
class Snip(Score):
    """|E[g] w|, summed over a group without its signs. Source: Lee et al. 2019, eq. 5."""

    name = "snip"
    needs = ("gradient",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["gradient"]

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.abs().sum(-1)
