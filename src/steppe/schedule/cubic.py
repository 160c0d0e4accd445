"""Sparsity rises fast, then slowly."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.curves import curve
from steppe.core.protocols import Schedule
from steppe.schedule.ramp import Ramp


@Schedule.registry.register("cubic")
@dataclass(frozen=True, kw_only=True)
class Cubic(Ramp):
    """s = s_f + (s_i - s_f) (1 - p)^3. Source: Zhu & Gupta 2017, eq. 1 (GMP)."""

    name = "cubic"

    def rise(self, progress: float, target: float) -> float:
        return self.initial + (target - self.initial) * curve("cubic", progress)
