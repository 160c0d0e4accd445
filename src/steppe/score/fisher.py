"""Optimal brain damage with the empirical Fisher diagonal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.protocols import Score


@Score.registry.register("fisher")
@dataclass(frozen=True, kw_only=True)
class Fisher(Score):
    """sqrt(F_ii) |w_i| with F = E[g^2]; ranks like OBD's F_ii w_i^2 / 2.

    As the P of SAFE+ it keeps the top of sqrt(P_ii) |v_i|.

    Source: LeCun et al. 1990; SAFE (ICML 2025), section 3.4.
    """

    name = "fisher"
    needs = ("squared_gradient",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["squared_gradient"].sqrt()
