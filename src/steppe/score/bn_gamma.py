"""How much a norm scales its channel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.group import Slice
from steppe.core.protocols import Score


@Score.registry.register("bn_gamma")
@dataclass(frozen=True, kw_only=True)
class BnGamma(Score):
    """|gamma| of the norm behind a channel; of several norms the Euclidean norm.

    Needs coupled channels (groups).

    Source: Liu et al. 2017 (network slimming); Zhuang et al. 2020 (polarisation).
    """

    name = "bn_gamma"

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight

    def reads(self, part: Slice) -> bool:
        return part.role == "norm" and part.name.endswith("weight")
