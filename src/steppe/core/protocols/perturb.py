"""The protocol of the perturb axis: how flat?"""

from __future__ import annotations

from torch import Tensor

from steppe.core.part import Part, axis


class Perturb(Part):
    """How flat? Where the gradient is taken instead of at x."""

    registry = axis("perturb")

    @property
    def active(self) -> bool:
        """Whether a second gradient is needed at all."""
        return True

    def due(self, step: int) -> bool:
        """Whether step ``step`` (counted from 0) takes the second gradient."""
        return True

    def at(self, progress: float) -> Perturb:
        """The perturbation at ``progress`` in [0, 1] of the run; itself, unless it has phases."""
        return self

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        """eps for each parameter, at which (added to x) the second gradient is taken.

        Args:
            weights: parameters at x.
            grads: gradients at x, averaged over the ranks, unscaled.
            names: the parameters' names.
        """
        raise NotImplementedError
