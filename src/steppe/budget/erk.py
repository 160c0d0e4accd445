"""Thin layers stay denser (Erdos-Renyi-Kernel)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steppe.core.layer import Layer
from steppe.core.part import Budget, Tensors
from steppe.core.selection import apportion, keep_largest


@Budget.registry.register("erk")
@dataclass(frozen=True, kw_only=True)
class Erk(Budget):
    """Density of a layer ~ sum of its dimensions / product of them, capped at dense.

    Source: Evci et al. 2020 (RigL), appendix B.
    """

    name = "erk"
    uneven = True

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        sizes = {name: u.numel() for name, u in units.items()}
        raw = {
            name: sum(layers[name].shape) / layers[name].numel * size
            for name, size in sizes.items()
        }
        kept = sum(sizes.values()) - prune
        scale = kept / sum(raw.values())
        counts = apportion({n: r * scale for n, r in raw.items()}, sizes, kept)
        return {n: keep_largest({n: u}, sizes[n] - counts[n])[n] for n, u in units.items()}
