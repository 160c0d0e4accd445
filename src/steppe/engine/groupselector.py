"""From weights to masks where channels of several layers live and die together."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from steppe.core.cost import Cost, Units
from steppe.core.errors import SteppeError
from steppe.core.group import Group, masks_of
from steppe.core.layer import Layer
from steppe.core.part import Tensors
from steppe.core.statistic import Statistic
from steppe.engine.selector import Selector
from steppe.method import Method


class GroupSelector(Selector):
    """The projection's support over coupled channels: whole units, in every tensor they lie in.

    Sparsity is the share of the cost that goes: ``cost.total(kept) <= (1 - s) cost.total(all)``.

    Args:
        method: its score and budget are used; its structure must be ``channel``.
        layers: the tensors that the units lie in.
        statistics: what the score needs to know, by name.
        groups: the coupled channels.
        cost: what sparsity counts; the number of channels if none is given.

    Raises:
        SteppeError: the structure is another one; the target leaves too little.
    """

    def __init__(
        self,
        method: Method,
        layers: Sequence[Layer],
        statistics: dict[str, Statistic],
        groups: Sequence[Group],
        cost: Cost | None = None,
    ) -> None:
        if not method.structure.whole_outputs:
            raise SteppeError(
                "coupled channels are pruned with structure channel",
                got=f"structure {method.structure.name}",
                way_out="structure='channel', or leave groups out",
            )
        self.method, self.statistics = method, statistics
        self.groups = list(groups)
        self.layers = {layer.name: layer for layer in layers}
        self.cost = cost if cost is not None else Units(self.groups)
        self.whole = self.cost.total({})
        self.num_units = sum(group.units for group in self.groups)
        # a target that cannot be met fails before the training, not after it
        even = {g.name: torch.arange(g.units, dtype=torch.float64) + 1 for g in self.groups}
        self._within(even, method.sparsity)

    @torch.no_grad()
    def __call__(self, weights: Tensors, sparsity: float, within: Tensors | None = None) -> Tensors:
        """Masks (True = kept) of all tensors that a unit lies in.

        Args:
            weights: name -> tensor of the model's shape.
            sparsity: the share of the cost that goes.
            within: earlier masks; units that they zero stay zero.
        """
        saliencies = {
            s.name: self._score(s.name, weights[s.name])
            for group in self.groups
            for s in group.slices
            if s.name in weights and self.method.score.reads(s)
        }
        units = {
            g.name: self.method.score.reduce(self.method.score.members(g, saliencies))
            for g in self.groups
        }
        if within is not None:
            alive = self.alive(within)
            units = {
                name: torch.where(alive[name], u.abs() + torch.finfo(u.dtype).tiny, 0.0)
                for name, u in units.items()
            }
        return masks_of(self.groups, self._within(units, sparsity), weights)

    def _within(self, units: Tensors, sparsity: float) -> Tensors:
        # a hair of slack, so that a share computed as 0.39999 of 10 units still allows four
        allowed = (1.0 - sparsity) * self.whole * (1.0 + 1e-9)
        return self.method.budget.within_cost(units, self.groups, self.cost, allowed)

    def alive(self, masks: Tensors) -> Tensors:
        """Group name -> the units that masks keep."""
        return {g.name: g.members(masks, ("output",)).any(1) for g in self.groups}

    def kept(self, masks: Tensors) -> int:
        """How many units masks keep."""
        return sum(int(alive.sum()) for alive in self.alive(masks).values())


def coupled(
    model: nn.Module, groups: Sequence[Group]
) -> tuple[list[Layer], dict[str, nn.Parameter]]:
    """Every parameter that a unit lies in, in name order.

    Raises:
        SteppeError: the groups are another model's.
    """
    named = dict(model.named_parameters())
    names = sorted({s.name for g in groups for s in g.slices if s.role != "buffer"})
    missing = [name for name in names if name not in named]
    if missing:
        raise SteppeError(
            "groups of channels belong to one model",
            got=f"{missing[0]}, which {type(model).__name__} does not have",
            way_out="steppe.channel_groups of this model",
        )
    layers = [Layer(name, tuple(named[name].shape)) for name in names]
    return layers, {name: named[name] for name in names}
