"""Adaptive sharpness-aware minimisation."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.norm import global_norm, scale_
from steppe.core.protocols import Ascent, Perturb


@Perturb.registry.register("asam")
@dataclass(frozen=True, kw_only=True)
class Asam(Ascent):
    """eps = rho T^2 g / ||T g||_2 with T = |w| + eta on weights, 1 on biases.

    A weight that is zero is not perturbed when eta is 0, so pruned weights stay zero.

    Args:
        rho: radius in units of T.
        eta: floor of T.
        on: alive, or all: weights that the coupling holds at zero too.

    Source: Kwon et al. 2021, eq. 5 and their code (names with 'weight', batch norm included).
    """

    rho: float = 0.5
    eta: float = 0.01
    name = "asam"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.rho < float("inf") or self.eta < 0.0:
            raise SteppeError(
                "asam needs a finite rho >= 0 and eta >= 0",
                got=f"rho {self.rho}, eta {self.eta}",
            )

    @property
    def active(self) -> bool:
        return self.rho > 0.0

    def perturbation(
        self, weights: list[Tensor], grads: list[Tensor], names: list[str]
    ) -> list[Tensor]:
        once = self._times(weights, grads, names)
        scale = self.rho / (global_norm(once) + 1e-12)
        twice = self._times(weights, once, names)
        scale_(twice, scale)
        return twice

    def _times(self, weights: list[Tensor], grads: list[Tensor], names: list[str]) -> list[Tensor]:
        """T g: |w| + eta times g on weights, g elsewhere."""
        return [
            g * (w.abs() + self.eta) if "weight" in n else g.clone()
            for w, g, n in zip(weights, grads, names, strict=True)
        ]
