"""Thin layers stay denser (Erdos-Renyi-Kernel)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steppe.core.layer import Layer
from steppe.core.protocols import UnitBudget
from steppe.core.selection import apportion


@UnitBudget.registry.register("erk")
@dataclass(frozen=True, kw_only=True)
class Erk(UnitBudget):
    """Density of a layer ~ sum of its dimensions / product of them, capped at dense.

    Source: Evci et al. 2020 (RigL), appendix B.
    """

    name = "erk"
    uneven = True

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        raw = {n: sum(layers[n].shape) / layers[n].numel * size for n, size in sizes.items()}
        kept = sum(sizes.values()) - prune
        scale = kept / max(sum(raw.values()), 1e-30)
        stay = apportion({n: r * scale for n, r in raw.items()}, sizes, kept)
        return {n: size - stay[n] for n, size in sizes.items()}
