"""All at once."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.errors import SteppeError
from steppe.core.protocols import Schedule


@Schedule.registry.register("one_shot")
@dataclass(frozen=True, kw_only=True)
class OneShot(Schedule):
    """Nothing before ``at``, everything there.

    Args:
        at: fraction of the run: 0 prunes before the first step (then the run is fine-tuning),
            1 at the end.
    """

    at: float = 1.0
    name = "one_shot"

    def __post_init__(self) -> None:
        if not 0.0 <= self.at <= 1.0:
            raise SteppeError("one_shot needs at in [0, 1], a fraction of the run", got=self.at)

    def sparsity(self, progress: float, target: float) -> float:
        return target if progress >= self.at else 0.0

    def due(self, step: int, total: int) -> bool:
        return step / total < self.at <= (step + 1) / total
