"""The Euclidean norm of a group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("l2")
@dataclass(frozen=True, kw_only=True)
class L2(Score):
    """||w||_2 of a group; magnitude for single weights."""

    name = "l2"

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight

    def reduce(self, groups: Tensor) -> Tensor:
        norm: Tensor = groups.norm(dim=-1)
        return norm
