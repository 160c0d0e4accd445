"""Layers with many outliers stay denser (OWL)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, by_block
from steppe.core.protocols import UnitBudget
from steppe.core.selection import apportion

if TYPE_CHECKING:
    from steppe.method import Method


@UnitBudget.registry.register("owl")
@dataclass(frozen=True, kw_only=True)
class Owl(UnitBudget):
    """Density follows the share of outliers, |s| > threshold * mean |s|, of a decoder block.

    Densities are 1 - sparsity + (D - mean D) with D the blocks' outlier shares scaled to a range
    of 2 ``spread``; all layers of a block share one, and the total is exact.

    Args:
        threshold: M, how far above the mean an outlier lies.
        spread: lambda; no block's sparsity is further than 2 lambda from another's.

    Source: Yin et al. 2024 (OWL), section 3 and its code (Hyper_m 5, Lamda 0.08).
    """

    threshold: float = 5.0
    spread: float = 0.08
    name = "owl"
    uneven = True
    profiled_by = "wanda"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.threshold > 0 or not 0.0 <= self.spread < 0.5:
            raise SteppeError(
                "owl needs a threshold > 0 and a spread in [0, 0.5)",
                got=f"threshold {self.threshold}, spread {self.spread}",
            )

    def fits(self, method: Method) -> None:
        if method.structure.whole_outputs:
            raise SteppeError("owl ranks weights", got=f"structure {method.structure.name}")

    def profile(self, units: Tensor) -> float:
        size = units.abs()
        return float((size > self.threshold * size.mean()).double().mean())

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        groups = by_block(layers, sizes)
        share = {g: sum(profile[n] for n in names) / len(names) for g, names in groups.items()}
        low, high = min(share.values()), max(share.values())
        scale = 2 * self.spread / (high - low) if high > low else 0.0
        scaled = {g: (s - low) * scale for g, s in share.items()}
        mean = sum(scaled.values()) / len(scaled)
        total = sum(sizes.values())
        dense = (total - prune) / total
        density = {n: dense + scaled[g] - mean for g, names in groups.items() for n in names}
        stay = apportion(
            {n: max(density[n], 0.0) * s for n, s in sizes.items()}, sizes, total - prune
        )
        return {n: size - stay[n] for n, size in sizes.items()}
