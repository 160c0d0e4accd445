"""First-order change of the loss when a norm's output is switched off."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from steppe.core.group import Slice
from steppe.core.protocols import Score


@Score.registry.register("taylor_gate")
@dataclass(frozen=True, kw_only=True)
class TaylorGate(Score):
    """E[(gamma dL/dgamma + beta dL/dbeta)^2] of the norm behind a channel.

    That is E[(dL/dz)^2] for a gate z = 1 on the norm's output, without adding the gate. Norms of
    channels that go together count with their sum. Needs coupled channels (groups).

    Source: Molchanov et al. 2019, section 3.2 (Taylor-FO-BN).
    """

    name = "taylor_gate"
    needs = ("gate_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return stats["gate_square"].expand(weight.shape)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)

    def reads(self, part: Slice) -> bool:
        # the scale's value holds the shift's share already
        return part.role == "norm" and part.name.endswith("weight")
