"""The final sparsity from the first step on."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Schedule


@Schedule.registry.register("constant")
@dataclass(frozen=True, kw_only=True)
class Constant(Schedule):
    """s = s_f at every step; the coupling decides how hard the weights feel it."""

    name = "constant"

    def sparsity(self, progress: float, target: float) -> float:
        return target
