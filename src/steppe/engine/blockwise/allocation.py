"""The whole model's budget as exact counts per layer, fixed before the first block."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import UnitBudget
from steppe.core.selection import apportion, count
from steppe.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class AllocatedBudget(UnitBudget):
    """Some layers' share of a budget: so many units each, ranked as the budget ranks."""

    base: UnitBudget
    quotas: tuple[tuple[str, int], ...]
    name = "allotted"

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        shares = dict(self.quotas)
        mine = {n: shares[n] for n in sizes}
        if sum(mine.values()) == prune:
            return mine
        return apportion({n: float(c) for n, c in mine.items()}, sizes, prune)

    def within(self, units: Tensor, prune: int) -> Tensor:
        return self.base.within(units, prune)


def unit_budget(method: Method) -> UnitBudget:
    """The method's budget, which must choose among the units of single layers.

    Raises:
        SteppeError: it chooses among coupled channels.
    """
    if not isinstance(method.budget, UnitBudget):
        raise SteppeError(
            "blockwise pruning chooses among the units of single layers",
            got=f"budget {method.budget.name}, which chooses among coupled channels",
            way_out="use budget uniform, per_row, row_mass, erk or owl",
        )
    return method.budget


def sizes_of(method: Method, layers: list[Layer]) -> dict[str, int]:
    """Units per layer."""
    sizes = {}
    for layer in layers:
        rows, columns = method.structure.units(layer)
        sizes[layer.name] = rows * columns
    return sizes


def counts_of(method: Method, layers: list[Layer], profile: Mapping[str, float]) -> dict[str, int]:
    """Units that each layer of the model loses; exactly round(sparsity * n) in all.

    Raises:
        SteppeError: the budget must see all weights together.
    """
    sizes = sizes_of(method, layers)
    fixed = method.structure.sparsity
    if fixed is not None:
        return {name: round(fixed * size) for name, size in sizes.items()}
    shaped = {x.name: method.structure.count(x, method.sparsity) for x in layers}
    decided = {name: n for name, n in shaped.items() if n is not None}
    if decided:
        assert len(decided) == len(shaped), "a shape decides for all layers or for none"
        return decided
    budget = unit_budget(method)
    if not budget.layerwise:
        raise SteppeError(
            "blockwise pruning knows each layer's share before it sees all weights",
            got=f"budget {method.budget.name}, one threshold for all layers",
            way_out="use budget uniform, per_row, row_mass, erk or owl",
        )
    prune = count(method.sparsity, sum(sizes.values()))
    return budget.counts({x.name: x for x in layers}, sizes, prune, profile)


def for_block(method: Method, counts: Mapping[str, int], layers: list[Layer]) -> Method:
    """The method with a budget of exactly these counts for these layers."""
    if method.structure.sparsity is not None:
        return method
    sizes = sizes_of(method, layers)
    quotas = tuple((x.name, counts[x.name]) for x in layers)
    total = sum(sizes.values())
    sparsity = sum(c for _, c in quotas) / total
    if sparsity >= 1.0:
        raise SteppeError(
            "a block must keep at least one weight",
            got=f"{layers[0].block} with a share of 100 %",
            way_out="a smaller sparsity, or another budget",
        )
    return method.replace(
        budget=AllocatedBudget(sparsity=sparsity, base=unit_budget(method), quotas=quotas)
    )
