"""Experts of a mixture merged into others, in place: the same shapes, other weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor

from steppe.core.group import Group, Slice
from steppe.core.protocols import ExpertMerger
from steppe.removal.mixtures import Mixture, mixtures_of


@torch.no_grad()
def merge(mixture: Mixture, merger: ExpertMerger, into: Tensor, weights: Tensor) -> None:
    """Each expert that others go to becomes their mean, their neurons in its own order.

    Where no token reached any of them, it stays as it was. Those that go are not changed.

    Args:
        mixture: in memory, of a layout whose neurons are known.
        merger: puts neurons in order.
        into: ``[experts]``: the expert that each goes to; its own number where it stays.
        weights: ``[experts]``: of the mean.
    """
    now = loaded(mixture)
    group = now.neurons()
    assert group is not None, "such mixtures are refused before"
    stacks = {n: t for n, t in now.tensors.items() if n.startswith(f"{now.inside}.")}
    for target in into.unique().tolist():
        members = (into == target).nonzero().flatten().tolist()
        total = float(weights[members].sum())
        if len(members) == 1 or not total:
            continue
        sums = {n: t[target] * (float(weights[target]) / total) for n, t in stacks.items()}
        own = _neurons(group, now, target)
        for expert in (m for m in members if m != target):
            order = merger.aligned(own, _neurons(group, now, expert))
            share = float(weights[expert]) / total
            for name, stack in stacks.items():
                slices = [s for s in group.slices if s.name == name]
                sums[name] += share * _in_order(stack[expert], slices, now.width, order)
        for name, stack in stacks.items():
            stack[target].copy_(sums[name])


def loaded(mixture: Mixture) -> Mixture:
    """A mixture with the tensors that it has in memory now."""
    # names are within its owner then
    return next(m for m in mixtures_of(mixture.owner) if m.router is mixture.router)


def _places(s: Slice, width: int) -> Tensor:
    """``[width, k]``: where an expert's neurons lie in its part of a stacked tensor."""
    assert s.stacked, "the neurons are those of stacked experts"
    return s.index[:width]  # those of the first, which the others' are like


def _neurons(group: Group, mixture: Mixture, expert: int) -> Tensor:
    """``[width, members]``: all weights of each neuron of one expert."""
    parts = []
    for s in group.slices:
        tensor, places = mixture.tensors[s.name][expert], _places(s, mixture.width)
        moved = tensor.movedim(s.dim - 1, 0)[places.flatten().to(tensor.device)]
        parts.append(moved.reshape(len(places), -1).float())
    return torch.cat(parts, dim=1)


def _in_order(tensor: Tensor, slices: Iterable[Slice], width: int, order: Tensor) -> Tensor:
    """One expert's tensor with its neurons in another order; what is of no neuron stays.

    Args:
        tensor: of one expert.
        slices: where the neurons lie in the stack of all.
        width: how many there are.
        order: ``[width]``: which comes at each place.
    """
    for s in slices:
        places = _places(s, width)
        moved = tensor.clone()
        new, old = places.flatten().to(tensor.device), places[order].flatten().to(tensor.device)
        moved.movedim(s.dim - 1, 0)[new] = tensor.movedim(s.dim - 1, 0)[old]
        tensor = moved
    return tensor
