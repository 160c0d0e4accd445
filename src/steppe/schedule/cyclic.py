"""Train, cut, rewind, train again."""

from __future__ import annotations

import math
from dataclasses import dataclass

from steppe.core.errors import SteppeError, unknown
from steppe.core.protocols import Schedule
from steppe.schedule.one_shot import OneShot

REWINDS = ("weights", "rate", "nothing")


@Schedule.registry.register("cyclic")
@dataclass(frozen=True, kw_only=True)
class Cyclic(Schedule):
    """Several trainings one after another; between two, the same share of what remains goes.

    After cut j of n = cycles - 1 the sparsity is 1 - (1 - s)^(j / n). What is left over when the
    run's steps are shared out makes the first training longer.

    Args:
        cycles: trainings; there is a cut between any two. 26 of them with s = 1 - 0.8^25 is the
            lottery ticket's "a fifth of what remains, 25 times".
        rewind: what then returns to its beginning: ``weights`` (and batch norms, learning rate
            and data order: LTH, WR), ``rate`` (learning rate and data order, the weights stay:
            LRR), ``nothing`` (PBW). The optimiser's momentum starts anew with either of the first.
        to: where the beginning lies, as a fraction of the first training. Later ones are shorter
            by that. 0 is the lottery ticket's; a few percent is what larger networks need.

    Source: Frankle & Carbin 2019; Frankle et al. 2020 (rewinding to an early step); Renda et al.
    2020 (learning rate); Han et al. 2015.
    """

    cycles: int = 10
    rewind: str = "weights"
    to: float = 0.0
    name = "cyclic"

    def __post_init__(self) -> None:
        if self.rewind not in REWINDS:
            raise unknown("rewind of cyclic", self.rewind, REWINDS)
        whole = isinstance(self.cycles, int)
        if not whole or self.cycles < 2 or not 0.0 <= self.to < 1.0:
            raise SteppeError(
                "cyclic needs two cycles or more and to in [0, 1), a fraction of the first",
                got=f"cycles {self.cycles}, to {self.to}",
                way_out="cycles 10, to 0; a single cut is schedule one_shot",
            )

    @property
    def rewinds(self) -> str:
        return "" if self.rewind == "nothing" else self.rewind

    def anchor(self, total: int) -> int:
        return int(self.to * self._first(total))

    def _first(self, total: int) -> int:
        """The length of the first training."""
        cuts = self.cycles - 1
        length = int(total / (1 + cuts * (1 - self.to)) + 1e-9)
        return total - cuts * (length - int(self.to * length))

    def _later(self, total: int) -> int:
        """The length of every other one."""
        return (total - self._first(total)) // (self.cycles - 1)

    def _cuts(self, done: int, total: int) -> int:
        """How many cuts there were when ``done`` steps are done."""
        first, later = self._first(total), self._later(total)
        if done < first:
            return 0
        if later == 0:  # fewer steps than cycles: all cuts at once
            return self.cycles - 1
        return min(1 + (done - first) // later, self.cycles - 1)

    def _after_cuts(self, cuts: int, target: float) -> float:
        if cuts == self.cycles - 1:
            return target
        return 1.0 - math.pow(1.0 - target, cuts / (self.cycles - 1))

    def sparsity(self, progress: float, target: float) -> float:
        """As if steps were infinitely many; `after` counts them."""
        length = 1 / (1 + (self.cycles - 1) * (1 - self.to))
        past = (progress - length) / (length * (1 - self.to)) + 1e-9
        cuts = 0 if progress < length - 1e-9 else min(1 + int(past), self.cycles - 1)
        return self._after_cuts(cuts, target)

    def after(self, step: int, total: int, target: float) -> float:
        return self._after_cuts(self._cuts(step + 1, total), target)

    def due(self, step: int, total: int) -> bool:
        return self._cuts(step + 1, total) > self._cuts(step, total)

    def clock(self, step: int, total: int) -> tuple[int, int]:
        cuts = self._cuts(step, total)
        if not self.rewinds or not cuts or not self._later(total):
            return step, total if not self.rewinds else self._first(total)
        later, anchor = self._later(total), self.anchor(total)
        into = step - self._first(total) - (cuts - 1) * later
        return anchor + into, anchor + later


def once_or_cyclic(cycles: int, rewind: str, at: float) -> Schedule:
    """One cut for one cycle, else a cut between any two.

    Raises:
        SteppeError: there are several, and ``at`` says when the only one is.
    """
    if cycles == 1:
        return OneShot(at=at)
    if at != 1.0:
        raise SteppeError(
            "at is when a single cut happens",
            got=f"at {at} and {cycles} cycles",
            way_out="leave one of them out",
        )
    return Cyclic(cycles=cycles, rewind=rewind)
