"""The same sparsity in every layer."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.part import Budget


@Budget.registry.register("uniform")
@dataclass(frozen=True, kw_only=True)
class Uniform(Budget):
    """Every layer loses the same fraction, to within one unit (largest remainder)."""

    name = "uniform"
