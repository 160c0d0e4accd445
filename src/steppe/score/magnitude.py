"""The size of the weight itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("magnitude")
@dataclass(frozen=True, kw_only=True)
class Magnitude(Score):
    """|w|; for a group its Euclidean norm, which makes the projection the closest point.

    Source: Hagiwara 1994; Han et al. 2015.
    """

    name = "magnitude"

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight
