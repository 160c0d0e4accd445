"""The gradient at x itself."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Perturb


@Perturb.registry.register("none")
@dataclass(frozen=True, kw_only=True)
class NoPerturb(Perturb):
    """One pass, no perturbation."""

    name = "none"

    @property
    def active(self) -> bool:
        return False
