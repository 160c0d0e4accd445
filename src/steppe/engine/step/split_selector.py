"""From weights that are split over processes to masks: one whole weight at a time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Score, Tensors
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
        # one number for all entries is the same in every process
        return {need: self._whole(name, v) if v.ndim else v for need, v in known.items()}

    def saliency(self, score: Score, name: str, weight: Tensor) -> Tensor:
        return super().saliency(score, name, self._whole(name, weight))

    def _own(self, name: str, mask: Tensor) -> Tensor:
        return own_rows(mask, self._split[name]).clone()

    def reached(self, masks: Tensors) -> float:
        kept = sum(int(m.sum()) for m in masks.values())
        return 1.0 - self._everywhere.total(kept) / sum(x.numel for x in self.layers.values())

    def gathered(self, masks: Tensors) -> Tensors:
        return {name: self._whole(name, mask).cpu() for name, mask in masks.items()}
