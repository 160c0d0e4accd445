"""SAM along the optimiser's momentum: one gradient a step."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.norm import global_norm, scaled
from steppe.core.protocols import Ascent, Perturb


@Perturb.registry.register("msam")
@dataclass(frozen=True, kw_only=True)
class Msam(Ascent):
    """eps = -rho v / ||v||_2, v the optimiser's momentum, the norm over all parameters together.

    The gradient at x + eps is the step's only one, so a step costs what a plain one does; the loss
    that it returns, running statistics and scores are those of the network there. v is SGD's
    momentum buffer, or Adam's first moment without its preconditioner. -v is where the optimiser
    is heading, as in Nesterov's method, but of a fixed length. Nothing is moved in the first step,
    which has no momentum yet.

    Args:
        rho: radius, in the weights' units. Momentum differs less from step to step than gradients
            do, and radii are larger than SAM's: the authors run 3 on CIFAR-100 and ImageNet.
        on: alive, or all: weights that the coupling holds at zero too.

    Source: Becker, Altrock & Risse 2024, algorithm 1, and their code.
    """

    rho: float = 0.3
    name = "msam"
    along = "momentum"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rho < float("inf"):
            raise SteppeError("msam needs a finite rho >= 0", got=f"rho {self.rho}")

    @property
    def active(self) -> bool:
        return self.rho > 0.0

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        return scaled(grads, -self.rho / (global_norm(grads) + 1e-12))
