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
                f"score {self.method.score.name} looks at coupled channels",
                got="single layers",
                way_out="groups=steppe.channel_groups(model, x), or another score",
            )
        prune, partial = count(sparsity, self.num_units), sparsity < self.method.sparsity
        masks = self._one_by_one(weights, prune, within, partial=partial)
        if masks is None:
            masks = self._together(weights, prune, within, partial=partial)
        return masks

    def _one_by_one(
        self, weights: Tensors, prune: int, within: Tensors | None, *, partial: bool
    ) -> Tensors | None:
        """Masks made a layer at a time, so that of one layer only there are saliencies.

        None where layers have to be seen together: the budget does not know their shares
        beforehand, a shape is half-way to what it fixes, or what stays zero is more than a share.
        """
        structure, counts = self.method.structure, self._counts(prune)
        if counts is None or (partial and structure.sparsity is not None):
            return None
        masks: Tensors = {}
        for name, layer in self.layers.items():
            units = self.units(self.method.score, {name: weights[name]})
            alive = self._alive({name: within[name]}) if within is not None else {}
            if alive and int(alive[name].sum()) < alive[name].numel() - counts[name]:
                return None
            kept = self._chosen(units, alive, counts[name], partial=partial)
            if alive and bool((kept[name] & ~alive[name]).any()):
                return None
            masks[name] = self._own(name, structure.expand(kept[name], layer))
        return masks

    def _together(
        self, weights: Tensors, prune: int, within: Tensors | None, *, partial: bool
    ) -> Tensors:
        """Masks of all layers, whose saliencies are compared."""
        units = self.units(self.method.score, weights)
        alive = self._alive(within) if within is not None else {}
        kept = self._chosen(units, alive, prune, partial=partial)
        if any(bool((kept[name] & ~alive[name]).any()) for name in alive):
            # rounding may give a layer fewer zeros although there are more in all (the Alabama
            # paradox); other layers then lose what cannot return here
            units = {n: _dead_last(u, alive[n]) for n, u in units.items()}
            kept = _keep_first({n: kept[n] & alive[n] for n in kept}, units, prune)
        expand = self.method.structure.expand
        return {n: self._own(n, expand(kept[n], self.layers[n])) for n in units}

    def _counts(self, prune: int) -> dict[str, int] | None:
        """Units that each layer loses; None where that is known of all layers together only."""
        budget = self._units_budget
        if not budget.layerwise or budget.profiled_by is not None:
            return None
        units = {n: self.method.structure.units(layer) for n, layer in self.layers.items()}
        sizes = {name: rows * columns for name, (rows, columns) in units.items()}
        return budget.counts(self.layers, sizes, prune, {})

    def _alive(self, within: Tensors) -> Tensors:
        """Layer -> which of its units an earlier mask leaves something of."""
        groups = self.method.structure.groups
        return {n: groups(self._whole(n, m), self.layers[n]).any(-1) for n, m in within.items()}

    def _whole(self, name: str, part: Tensor) -> Tensor:
        """All of a layer's tensor, of which this process may have a part."""
        return part

    def _own(self, name: str, mask: Tensor) -> Tensor:
        """This process's part of a whole mask."""
        return mask

    def _chosen(self, units: Tensors, alive: Tensors, prune: int, *, partial: bool) -> Tensors:
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
            return self._units_budget.keep(units, {n: self.layers[n] for n in units}, prune)
        # on the way to N:M only those that lose in their group go, the smallest first
        return _keep_first(kept, units, prune) if partial else kept

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

    def shift(self, weights: Tensors, masks: Tensors, beside: Tensors) -> None:
        """As of `steppe.core.step_context.Projection`; of coupled channels only."""
        raise NotImplementedError

    def beside(self) -> Tensors:
        """`StepContext.beside`: none, as nothing is shifted."""
        return {}

    def fixed(self, weights: Tensors) -> Tensors:
        """`StepContext.fixed`: none, as every entry of a layer is of a unit that can go.

        Args:
            weights: name -> tensor, for shape and device.
        """
        return {}

    def kept(self, masks: Tensors) -> int:
        """How many units masks keep."""
        return sum(int(self._alive({n: masks[n]})[n].sum()) for n in self.layers)

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
