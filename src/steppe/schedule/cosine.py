"""Sparsity rises slowly, fast, slowly."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.curves import curve
from steppe.core.protocols import Schedule
from steppe.schedule.ramp import Ramp


@Schedule.registry.register("cosine")
@dataclass(frozen=True, kw_only=True)
class Cosine(Ramp):
    """s = s_i + (s_f - s_i) (1 - cos(pi p)) / 2."""

    name = "cosine"

    def rise(self, progress: float, target: float) -> float:
        return self.initial + (target - self.initial) * curve("cosine", progress)
