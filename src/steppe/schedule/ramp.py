"""What schedules share that rise between a start and an end."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steppe.core.errors import SteppeError
from steppe.core.protocols import Schedule

if TYPE_CHECKING:
    from steppe.method import Method


@dataclass(frozen=True, kw_only=True)
class Ramp(Schedule):
    """From ``initial`` at ``start`` to the target at ``end``, chosen anew each ``every`` steps.

    Args:
        start: fraction of the run before which nothing is pruned.
        end: fraction of the run from which on the target holds.
        every: steps between two choices of the mask; the ramp's last step always chooses.
        initial: sparsity at the start.
    """

    start: float = 0.0
    end: float = 1.0
    every: int = 1
    initial: float = 0.0

    def __post_init__(self) -> None:
        if not 0.0 <= self.start < self.end <= 1.0:
            raise SteppeError(
                "a schedule needs 0 <= start < end <= 1 (fractions of the run)",
                got=f"start {self.start}, end {self.end}",
            )
        if self.every < 1 or not 0.0 <= self.initial < 1.0:
            raise SteppeError(
                "a schedule needs every >= 1 step and an initial sparsity in [0, 1)",
                got=f"every {self.every}, initial {self.initial}",
            )

    def fits(self, method: Method) -> None:
        if self.initial > method.sparsity:
            raise SteppeError(
                "the initial sparsity must not exceed the final one",
                got=f"initial {self.initial}, sparsity {method.sparsity}",
                consequence="a mask would have to let weights return",
                way_out="lower initial",
            )

    def rise(self, progress: float, target: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the ramp itself."""
        raise NotImplementedError

    def sparsity(self, progress: float, target: float) -> float:
        if progress <= self.start:
            return min(self.initial, target)
        if progress >= self.end:
            return target
        inner = (progress - self.start) / (self.end - self.start)
        return self.rise(inner, target)

    def due(self, step: int, total: int) -> bool:
        done, first = step + 1, math.floor(self.start * total)
        last = max(math.ceil(self.end * total), first + 1)
        return done == last or (first < done < last and (done - first) % self.every == 0)
