"""The same sparsity in every layer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from steppe.core.layer import Layer
from steppe.core.part import Budget, Tensors
from steppe.core.selection import apportion, keep_largest


@Budget.registry.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Budget):
    """Every layer loses the same fraction, to within one unit (largest remainder)."""

    name = "uniform"

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        sizes = {name: u.numel() for name, u in units.items()}
        total = sum(sizes.values())
        counts = apportion({n: prune * s / total for n, s in sizes.items()}, sizes, prune)
        return {n: keep_largest({n: u}, counts[n])[n] for n, u in units.items()}
