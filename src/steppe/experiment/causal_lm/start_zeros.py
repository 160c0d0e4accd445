"""Zeros that a training starts from: whether its method holds them, and how many came back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.mask import pack, unpack
from steppe.core.protocols import Budget, Coupling, UnitBudget
from steppe.core.selection import count
from steppe.method import Method

PRUNED = 0.01
"""From this share of zeros on a model counts as pruned; any trained one has a few by rounding."""
_HOLDS = "--method magnitude --set method.at=0 --sparsity"


@dataclass(frozen=True)
class StartZeros:
    """Where the prunable weights of a model are zero, an entry to a bit.

    Args:
        layers: that are prunable.
        zeros: layer -> how many entries are zero.
        bits: masks of them, packed; empty where there are too few for a pruned model.
    """

    layers: Mapping[str, Layer]
    zeros: Mapping[str, int]
    bits: dict[str, Tensor]

    @classmethod
    def of(cls, layers: Sequence[Layer], weights: Mapping[str, Tensor]) -> StartZeros:
        """Look.

        Args:
            layers: that are prunable.
            weights: layer name -> weight, before anything was changed.
        """
        zeros = {n: w.numel() - int(w.count_nonzero()) for n, w in weights.items()}
        few = sum(zeros.values()) < PRUNED * sum(w.numel() for w in weights.values())
        bits = {} if few else pack({n: w.detach() != 0 for n, w in weights.items() if zeros[n]})
        return cls({layer.name: layer for layer in layers}, zeros, bits)

    @property
    def share(self) -> float:
        """Of all prunable weights."""
        return sum(self.zeros.values()) / max(sum(x.numel for x in self.layers.values()), 1)

    def held_by(self, method: Method) -> bool:
        """Whether a method promises to keep them: all go before the first step, none returns."""
        coupling, wanted = method.coupling, method.sparsity
        if not (isinstance(coupling, Coupling) and coupling.nested):
            return False
        if method.schedule.sparsity(0.0, wanted) < wanted:
            return False
        shapes = {n: method.structure.units(x) for n, x in self.layers.items()}
        sizes = {n: rows * columns for n, (rows, columns) in shapes.items()}
        prune, budget = count(wanted, sum(sizes.values())), method.budget
        if not (isinstance(budget, UnitBudget) and budget.layerwise) or budget.profiled_by:
            return self.share <= prune / sum(sizes.values())
        goes = budget.counts(self.layers, sizes, prune, {})
        return all(self.zeros[n] * sizes[n] <= goes[n] * x.numel for n, x in self.layers.items())

    @property
    def way_out(self) -> str:
        """The options with which `steppe train` holds each of them."""
        sizes = {n: x.numel for n, x in self.layers.items()}
        total, there = sum(sizes.values()), sum(self.zeros.values())
        for digits in range(2, 7):
            sparsity = round(self.share, digits)
            prune = count(sparsity, total)
            alike = Budget.make({"name": "uniform", "sparsity": sparsity})
            assert isinstance(alike, UnitBudget)
            goes = alike.counts({}, sizes, prune, {})
            if prune - there <= total / 10_000 and all(self.zeros[n] <= goes[n] for n in goes):
                return f"{_HOLDS} {sparsity:.6g}"
        least = math.ceil(self.share * 10**6) / 10**6
        return f"{_HOLDS} {least:.6g} --set method.budget=pooled"

    def before(self, method: Method) -> str:
        """What to say before a training that may fill them; empty where it does not."""
        if not self.bits or self.held_by(method):
            return ""
        return (
            f"{self.share:.2%} of the weights in the decoder blocks are zero, and with method "
            f"{method.name} these zeros may come back; to hold them: {self.way_out}"
        )

    def after(self, state: Mapping[str, Tensor]) -> list[str]:
        """What to say of a training that filled some.

        Args:
            state: parameter -> as it was written.
        """
        if not (back := self.returned(state)):
            return []
        there = sum(self.zeros.values())
        return [
            f"{back:,} of the {there:,} zeros that the training started from came back; to hold "
            f"them: {self.way_out}, in another folder"
        ]

    def returned(self, state: Mapping[str, Tensor]) -> int:
        """How many are zero no more.

        Args:
            state: parameter -> as it is now.
        """
        back = 0
        for bits in self.bits:
            if bits.endswith(".bits"):
                name = bits.removesuffix(".bits")
                one = {key: self.bits[key] for key in (bits, f"{name}.shape")}
                back += int((state[name].cpu() != 0).logical_and_(~unpack(one)[name]).sum())
        return back
