"""Sparsity rises evenly."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.curves import curve
from steppe.core.protocols import Schedule
from steppe.schedule.ramp import Ramp


@Schedule.registry.register("linear")
@dataclass(frozen=True, kw_only=True)
class Linear(Ramp):
    """s = s_i + (s_f - s_i) p."""

    name = "linear"

    def rise(self, progress: float, target: float) -> float:
        return self.initial + (target - self.initial) * curve("linear", progress)
