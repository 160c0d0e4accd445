"""Sparsity grows evenly from the first block to the last (ATP)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, by_block
from steppe.core.protocols import UnitBudget
from steppe.core.selection import apportion

_USUAL = 0.1


@UnitBudget.registry.register("progression")
@dataclass(frozen=True, kw_only=True)
class Progression(UnitBudget):
    """An arithmetic progression: block i of L has sparsity S + slope (i / (L - 1) - 1/2).

    What goes wrong in a block is carried through all that follow, so the first stay denser. All
    layers of a block share one sparsity, and the total is exact. Blocks, and layers without one,
    are ordered by name, numbers as numbers.

    The paper's common difference beta is slope / (L - 1); it is searched there on a grid, in the
    range in which all sparsities lie in [0, 1].

    Args:
        slope: sparsity of the last block minus that of the first; negative the other way round.
            None is 0.1, or as much less as [0, 1] asks for.

    Source: Huang et al. 2025 (ATP, arXiv 2502.14770).
    """

    slope: float | None = None
    name = "progression"
    uneven = True

    def __post_init__(self) -> None:
        super().__post_init__()
        most = 2 * min(self.sparsity, 1 - self.sparsity)
        if self.slope is not None and not abs(self.slope) <= most + 1e-9:
            raise SteppeError(
                "all sparsities of a progression must lie in [0, 1]",
                got=f"slope {self.slope} around a sparsity of {self.sparsity:g}",
                way_out=f"a slope of at most {most:g}",
            )

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        blocks = by_block(layers, sizes)
        places = sorted(blocks, key=_by_number)
        middle = (len(places) - 1) / 2
        usual = min(_USUAL, 2 * self.sparsity, 2 * (1 - self.sparsity))
        step = (usual if self.slope is None else self.slope) / max(len(places) - 1, 1)
        sparsity = {p: self.sparsity + step * (i - middle) for i, p in enumerate(places)}
        # in proportion, so that a schedule on its way to the sparsity has the same profile
        shares = {n: max(sparsity[b], 0.0) * sizes[n] for b, names in blocks.items() for n in names}
        return apportion({n: shares[n] for n in sizes}, sizes, prune)


def _by_number(name: str) -> list[tuple[int, str]]:
    """A key that puts layers.2 before layers.10."""
    parts = re.split(r"(\d+)", name)
    return [(int(p), "") if p.isdigit() else (-1, p) for p in parts]
