"""The same fraction of what remains goes at each step."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Schedule
from steppe.schedule.ramp import Ramp


@Schedule.registry.register("exponential")
@dataclass(frozen=True, kw_only=True)
class Exponential(Ramp):
    """1 - s = (1 - s_i)^(1-p) (1 - s_f)^p. Source: de Jorge et al. 2021; AdaSAP, sec. 3."""

    name = "exponential"

    def rise(self, progress: float, target: float) -> float:
        return float(1.0 - (1.0 - self.initial) ** (1.0 - progress) * (1.0 - target) ** progress)
