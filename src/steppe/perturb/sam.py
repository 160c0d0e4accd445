"""Sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.norm import global_norm, scaled
from steppe.core.protocols import Ascent, Perturb


@Perturb.registry.register("sam")
@dataclass(frozen=True, kw_only=True)
class Sam(Ascent):
    """eps = rho g / ||g||_2, the norm over all parameters together.

    Args:
        rho: radius of the ball, in the weights' units; 0 costs and does nothing.
        every: perturb only each so-manyth step, the first included; the others cost one gradient
            instead of two.
        on: alive, or all: weights that the coupling holds at zero too.

    Source: Foret et al. 2021, eq. 2.
    """

    rho: float = 0.05
    every: int = 1
    name = "sam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rho < float("inf"):
            raise SteppeError("sam needs a finite rho >= 0", got=f"rho {self.rho}")
        if not isinstance(self.every, int) or self.every < 1:
            raise SteppeError("sam perturbs every 1, 2, ... steps", got=f"every {self.every}")

    @property
    def active(self) -> bool:
        return self.rho > 0.0

    def due(self, step: int) -> bool:
        return step % self.every == 0

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        # a tensor, not a number: no device sync
        scale = self.rho / (global_norm(grads) + 1e-12)
        return scaled(grads, scale)
