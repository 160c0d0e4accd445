"""The protocol of the schedule axis: when?"""

from __future__ import annotations

from steppe.core.part import Part, axis


class Schedule(Part):
    """When? The fraction of units that are zero at each step."""

    registry = axis("schedule")

    @property
    def rewinds(self) -> str:
        """What returns to its beginning whenever something was pruned; see ``cyclic``."""
        return ""

    def anchor(self, total: int) -> int:
        """The step before which the run stands when it is rewound."""
        return 0

    def clock(self, step: int, total: int) -> tuple[int, int]:
        """Steps since the beginning of the training that ``step`` belongs to, and its length.

        Learning rate and data follow it. It is the run itself unless the schedule rewinds.
        """
        return step, total

    def sparsity(self, progress: float, target: float) -> float:
        """Sparsity at ``progress`` in [0, 1] of the run, ``target`` being the end's."""
        raise NotImplementedError

    def due(self, step: int, total: int) -> bool:
        """Whether the mask is chosen anew after step ``step`` (counted from 0)."""
        return True

    def after(self, step: int, total: int, target: float) -> float:
        """Sparsity after step ``step`` of ``total`` (counted from 0)."""
        return self.sparsity((step + 1) / max(total, 1), target)
