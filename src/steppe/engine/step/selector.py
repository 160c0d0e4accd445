"""Score, structure and budget together: from weights to masks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.group import Slice
from steppe.core.layer import Layer
from steppe.core.protocols import Score, Tensors, UnitBudget
from steppe.core.selection import count, keep_largest
from steppe.core.statistic import Statistic
from steppe.method import Method

OUTPUT = Slice("weight", 0, torch.zeros(1, 1, dtype=torch.long), "output")
"""The weights of single layers, as scores are asked whether they read them."""


class Selector:
    """The projection's support: which units of the weights a method keeps at a sparsity.

    Args:
        method: its score, structure and budget are used.
        layers: the prunable layers.
        statistics: what the score needs to know, by name.

    Raises:
        SteppeError: a layer cannot have the structure.
    """

    def __init__(
        self,
        method: Method,
        layers: Sequence[Layer],
        statistics: dict[str, Statistic] | None = None,
    ) -> None:
        if not isinstance(method.budget, UnitBudget):
            raise SteppeError(
                f"budget {method.budget.name} chooses among coupled channels",
                got="no groups of coupled channels",
                way_out="groups=steppe.channel_groups(model, x) (on the command line --target), or "
                "budget pooled or uniform",
            )
        self.method = method
        self._units_budget = method.budget
        self.layers = {layer.name: layer for layer in sorted(layers, key=lambda x: x.name)}
        self.statistics = statistics or {}
        method.structure.check_all(layers)
        self.num_units = sum(
            rows * columns for rows, columns in map(method.structure.units, layers)
        )

    @torch.no_grad()
    def __call__(self, weights: Tensors, sparsity: float, within: Tensors | None = None) -> Tensors:
        """Masks (True = kept) with exactly round(sparsity * units) units zeroed.

        Args:
            weights: layer name -> tensor of the layer's shape.
            sparsity: fraction of the units to zero.
            within: earlier masks; what they zero stays zero.
        """
        if not self.method.score.reads(OUTPUT):
            raise SteppeError(
                f"score {self.method.score.name} looks at the norms of coupled channels",
                got="single layers",
                way_out="groups=steppe.channel_groups(model, x), or another score",
            )
        structure, prune = self.method.structure, count(sparsity, self.num_units)
        units = self.units(self.method.score, weights)
        alive: Tensors = {}
        if within is not None:
            alive = {
                name: structure.groups(within[name], layer).any(-1)
                for name, layer in self.layers.items()
            }
        kept = self._kept(units, alive, prune, partial=sparsity < self.method.sparsity)
        return {name: structure.expand(kept[name], self.layers[name]) for name in units}

    def _kept(self, units: Tensors, alive: Tensors, prune: int, *, partial: bool) -> Tensors:
        """The units of some layers that stay.

        Args:
            units: layer -> saliencies of its units.
            alive: layer -> which of them may stay; empty where all may.
            prune: how many go.
            partial: whether it is on the way to the method's sparsity.
        """
        units = {n: _dead_last(u, alive[n]) if alive else u for n, u in units.items()}
        kept = self.method.structure.select(units)
        if kept is None:
            kept = self._units_budget.keep(units, {n: self.layers[n] for n in units}, prune)
        elif partial:
            # on the way to N:M only those that lose in their group go, the smallest first
            kept = _keep_first(kept, units, prune)
        if any(bool((kept[name] & ~alive[name]).any()) for name in alive):
            # rounding may give a layer fewer zeros although there are more in all (the Alabama
            # paradox); other layers then lose what cannot return here
            kept = _keep_first({n: kept[n] & alive[n] for n in kept}, units, prune)
        return kept

    def cut(self, masks: Tensors) -> Tensors:
        """Of these masks what is enough to silence the units: all of it."""
        return masks

    @torch.no_grad()
    def compensate(self, weights: Tensors, masks: Tensors) -> None:
        """Zero what masks zero and make up for it with the rest, as the score knows; in place."""
        score = self.method.score
        for name, keep in masks.items():
            w = weights[name]
            if bool(w.masked_fill(keep, 0).any()):
                w.copy_(score.compensate(w, keep, self._stats(score, name), name))

    def fixed(self, weights: Tensors) -> Tensors:
        """`StepContext.fixed`: none, as every entry of a layer is of a unit that can go.

        Args:
            weights: name -> tensor, for shape and device.
        """
        return {}

    def kept(self, masks: Tensors) -> int:
        """How many units masks keep."""
        return sum(
            int(self.method.structure.groups(masks[name], layer).any(-1).sum())
            for name, layer in self.layers.items()
        )

    def reached(self, masks: Tensors) -> float:
        """The share of the weights that masks zero."""
        total = sum(m.numel() for m in masks.values())
        return 1.0 - sum(int(m.sum()) for m in masks.values()) / total

    def _stats(self, score: Score, name: str) -> Tensors:
        stats = {}
        for need in score.needs:
            value = self.statistics[need].value(name)
            if value is None:
                raise SteppeError(
                    f"score {score.name} needs the {need} of every prunable layer",
                    got=f"none for {name}",
                    consequence="the layer took no part in the loss",
                    way_out=f"exclude {name}, or use it in the model's forward",
                )
            stats[need] = value
        return stats

    def saliency(self, score: Score, name: str, weight: Tensor) -> Tensor:
        """What a score says of a weight; of its shape.

        Args:
            score: any whose statistics are gathered.
            name: of the weight.
            weight: as it is now.
        """
        return score.score(weight, self._stats(score, name), name)

    def units(self, score: Score, weights: Tensors) -> Tensors:
        """Layer -> what a score says of its units, ``[rows, units per row]``.

        Args:
            score: as of `saliency`.
            weights: name -> weight, of all layers or some.
        """
        structure = self.method.structure
        return {
            name: score.reduce(structure.groups(self.saliency(score, name, weights[name]), layer))
            for name, layer in self.layers.items()
            if name in weights
        }

    def gathered(self, masks: Tensors) -> Tensors:
        """Masks of whole weights, from those that it gave."""
        return masks


def _keep_first(first: Tensors, units: Tensors, prune: int) -> Tensors:
    """All but ``prune`` units: the ``first`` ones, then the largest of the others."""
    return keep_largest({n: u.masked_fill(first[n], float("inf")) for n, u in units.items()}, prune)


def _dead_last(units: Tensor, alive: Tensor) -> Tensor:
    """Units that are gone rank below all others, even below those that happen to be zero."""
    tiny = torch.finfo(units.dtype).tiny
    floor = torch.where(units == 0, tiny, units)
    return torch.where(alive, floor, 0.0)
