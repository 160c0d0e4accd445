"""First-order change of the loss when a norm's output is switched off."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from steppe.core.group import Group, Slice
from steppe.core.protocols import Score
from steppe.score.channel_norms import require_gates


@Score.registry.register("taylor_gate")
@dataclass(frozen=True, kw_only=True)
class TaylorGate(Score):
    """E[(gamma dL/dgamma + beta dL/dbeta)^2] of the norm behind a channel.

    That is E[(dL/dz)^2] for a gate z = 1 on the norm's output, without adding the gate; the gates
    of channels that go together are one gate, whose derivative is their sum. The same as `Taylor`
    in its variant ``gate``. Needs coupled channels (groups), each with a norm.

    Source: Molchanov et al. 2019, section 3.2 (Taylor-FO-BN).
    """

    name = "taylor_gate"
    needs = ("gate_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return stats["gate_square"].expand(weight.shape)

    def for_network(
        self, model: nn.Module, whole_outputs: bool, groups: Sequence[Group]
    ) -> tuple[Score, list[str]]:
        require_gates(f"score {self.name}", model, groups)
        return self, []

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)

    def reads(self, part: Slice) -> bool:
        # the scales' values hold the shifts' share already
        return part.role == "norm" and part.name.endswith("weight")
