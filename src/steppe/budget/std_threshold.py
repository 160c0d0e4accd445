"""One multiple of each layer's standard deviation as its threshold."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.core.protocols import Tensors, UnitBudget
from steppe.core.selection import keep_largest


@UnitBudget.registry.register("std_threshold")
@dataclass(frozen=True, kw_only=True)
class StdThreshold(UnitBudget):
    """A layer loses what lies below q std(layer), with one q for all layers that fits the count.

    Ranking all units by |u| / std(layer) finds that q at once. std is that of the units that
    remain, which are not 0: otherwise a layer would seem to narrow, and so be spared, because it
    was pruned before. A layer of equal units has std 0 and goes last. With score ``magnitude`` this
    is the pruning of PBW, whose q is set by hand, so that the sparsity is an outcome.

    Source: Han et al. 2015.

    Example:
        >>> units = {"a": torch.tensor([[1.0, -3.0]]), "b": torch.tensor([[20.0, -40.0]])}
        >>> StdThreshold(sparsity=0.5).keep(units, {}, 2)
        {'a': tensor([[False,  True]]), 'b': tensor([[False,  True]])}
    """

    name = "std_threshold"
    layerwise = False

    def keep(self, units: Tensors, layers: Mapping[str, Layer], prune: int) -> Tensors:
        return keep_largest({name: self._in_std(u) for name, u in units.items()}, prune)

    @staticmethod
    def _in_std(units: Tensor) -> Tensor:
        size = units.double()
        remain = size[size != 0]
        if not len(remain):
            return size
        # 0 / 0 is a unit that is gone in a layer of equal ones
        return (size.abs() / torch.std(remain, correction=0)).nan_to_num_(0.0, posinf=torch.inf)
