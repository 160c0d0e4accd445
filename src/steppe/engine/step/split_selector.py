"""From weights that are split over processes to masks: one whole weight at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Score, Tensors
from steppe.core.selection import count
from steppe.core.split import like, over, own_rows, whole_of
from steppe.core.statistic import Statistic
from steppe.engine.step.selector import Selector
from steppe.method import Method


class SplitSelector(Selector):
    """A `Selector` whose weights and masks are this process's rows of them.

    Every process gathers a whole weight, ranks its units as one process would, and keeps its rows
    of the mask. Where the budget knows each layer's share beforehand, one weight is whole at a
    time; a budget that ranks all layers together gathers the saliencies of all.

    Args:
        method, layers, statistics: see `Selector`.
        weights: layer name -> its parameter, which says how it is split.
    """

    def __init__(
        self,
        method: Method,
        layers: Sequence[Layer],
        statistics: dict[str, Statistic] | None,
        weights: Mapping[str, Tensor],
    ) -> None:
        super().__init__(method, layers, statistics)
        self._split = {name: weights[name].detach() for name in self.layers}
        self._everywhere = over(self._split.values())

    def _whole(self, name: str, part: Tensor) -> Tensor:
        return whole_of(like(part, self._split[name]))

    def _stats(self, score: Score, name: str) -> Tensors:
        known = super()._stats(score, name)
        # a single number is for all entries
        return {need: self._whole(name, v) if v.ndim else v for need, v in known.items()}

    def saliency(self, score: Score, name: str, weight: Tensor) -> Tensor:
        return super().saliency(score, name, self._whole(name, weight))

    @torch.no_grad()
    def __call__(self, weights: Tensors, sparsity: float, within: Tensors | None = None) -> Tensors:
        counts = self._counts(sparsity)
        if counts is None or (within is not None and self._too_few(within, counts)):
            earlier = {n: self._whole(n, m) for n, m in within.items()} if within else None
            masks = super().__call__(weights, sparsity, earlier)
            return {name: self._own(name, mask) for name, mask in masks.items()}
        partial = sparsity < self.method.sparsity
        masks = {}
        for name, layer in self.layers.items():
            units = self.units(self.method.score, {name: weights[name]})
            alive = {}
            if within is not None:
                earlier_mask = self._whole(name, within[name])
                alive = {name: self.method.structure.groups(earlier_mask, layer).any(-1)}
            kept = self._kept(units, alive, counts[name], partial=partial)
            masks[name] = self._own(name, self.method.structure.expand(kept[name], layer))
        return masks

    def _own(self, name: str, mask: Tensor) -> Tensor:
        return own_rows(mask, self._split[name]).clone()

    def _sizes(self) -> dict[str, int]:
        units = {n: self.method.structure.units(layer) for n, layer in self.layers.items()}
        return {name: rows * columns for name, (rows, columns) in units.items()}

    def _counts(self, sparsity: float) -> dict[str, int] | None:
        """Units that each layer loses; None where that is known of all layers together only."""
        budget = self._units_budget
        if not budget.layerwise or budget.profiled_by is not None:
            return None
        prune = count(sparsity, self.num_units)
        return budget.counts(self.layers, self._sizes(), prune, {})

    def _too_few(self, within: Tensors, counts: Mapping[str, int]) -> bool:
        """Whether some layer has more dead units than it may lose: others then lose more."""
        sizes = self._sizes()
        return any(self._kept_in(n, within[n]) < sizes[n] - counts[n] for n in self.layers)

    def _kept_in(self, name: str, mask: Tensor) -> int:
        whole = self._whole(name, mask)
        return int(self.method.structure.groups(whole, self.layers[name]).any(-1).sum())

    def kept(self, masks: Tensors) -> int:
        return sum(self._kept_in(name, masks[name]) for name in self.layers)

    def reached(self, masks: Tensors) -> float:
        kept = sum(int(m.sum()) for m in masks.values())
        return 1.0 - self._everywhere.total(kept) / sum(x.numel for x in self.layers.values())

    def gathered(self, masks: Tensors) -> Tensors:
        return {name: self._whole(name, mask).cpu() for name, mask in masks.items()}
