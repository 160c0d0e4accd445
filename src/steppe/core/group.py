"""Coupled channels: slices of many tensors that live and die together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from steppe.core.errors import SteppeError

Tensors = dict[str, Tensor]

ROLES = ("output", "bias", "norm", "input", "buffer")


@dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a group lie in one tensor.

    Args:
        name: of the parameter or buffer in the model.
        dim: along which the units lie.
        index: ``[units, k]`` long; row u holds the positions of unit u along ``dim``.
        role: ``output``: rows of the weight that computes the channel; ``bias``: of the same layer;
            ``norm``: scale or shift of a norm that follows; ``input``: columns of a weight that
            reads the channel; ``buffer``: a norm's running statistics.
        stacked: the tensor is one of stacked experts, each of which has units of its own; positions
            count along the first dimension and ``dim`` as along one.
    """

    name: str
    dim: int
    index: Tensor
    role: str
    stacked: bool = False

    def __post_init__(self) -> None:
        assert self.role in ROLES, self.role
        assert self.index.ndim == 2, self.index.shape

    def rows(self, tensor: Tensor) -> Tensor:
        """``[units, members]``: what belongs to each unit."""
        index = self.index.to(tensor.device)
        if self.stacked:
            tensor = tensor.movedim(self.dim, 1).flatten(0, 1)
        else:
            tensor = tensor.movedim(self.dim, 0)
        moved = tensor.flatten(1) if tensor.ndim > 1 else tensor[:, None]
        return moved[index.reshape(-1)].reshape(len(index), -1)

    def fill(self, tensor: Tensor, units: Tensor, value: float) -> None:
        """Write a number to all that belongs to some units, in place.

        Args:
            tensor: the one that it is of, or a mask for it.
            units: ``[units]`` booleans.
            value: what is written.
        """
        places = self.index[units.cpu()].reshape(-1).to(tensor.device)
        if self.stacked:
            size = tensor.shape[self.dim]
            tensor.movedim(self.dim, 1)[places // size, places % size] = value
        else:
            tensor.index_fill_(self.dim, places, value)


@dataclass(frozen=True, eq=False)
class Group:
    """Channels of several layers, each unit of which must go everywhere or nowhere.

    Args:
        name: the first weight that computes them.
        slices: where the units lie.
        multiple: the number of units that are kept must be a multiple of this (or all).
        kind: ``channel``, or ``head`` for attention heads.

    Example:
        >>> one = Slice("conv.weight", 0, torch.arange(4).view(2, 2), "output")
        >>> Group("conv.weight", (one,)).units
        2
    """

    name: str
    slices: tuple[Slice, ...] = field(repr=False)
    multiple: int = 1
    kind: str = "channel"

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.slices[0].index)

    @property
    def least(self) -> int:
        """The fewest that may stay."""
        return min(self.multiple, self.units)

    def members(self, tensors: Mapping[str, Tensor], roles: Iterable[str] = ("output",)) -> Tensor:
        """``[units, members]``: everything with these roles that belongs to each unit.

        Args:
            tensors: name -> tensor of the model's shape: weights, gradients, saliencies. Slices
                whose tensor is not among them are left out.
            roles: see `Slice`.
        """
        wanted = set(roles)
        rows = [
            s.rows(tensors[s.name])
            for s in self.slices
            if s.role in wanted & set(ROLES) and s.name in tensors
        ]
        if not rows:
            raise SteppeError(
                "a group of channels is scored by weights that belong to it",
                got=f"{self.name} without {' or '.join(sorted(wanted))}",
                way_out="choose another score, or exclude the layer",
            )
        return torch.cat(rows, dim=1)


def require_fit(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> None:
    """Check that groups lie within a model's tensors.

    Args:
        groups: of some model.
        tensors: name -> tensor of this model.

    Raises:
        SteppeError: a tensor is not there, or too small.

    Example:
        >>> rows = Slice("a.weight", 0, torch.arange(2).view(2, 1), "output")
        >>> require_fit([Group("a.weight", (rows,))], {"a.weight": torch.ones(2, 3)})
    """
    for group in groups:
        for s in group.slices:
            tensor = tensors.get(s.name)
            known = tensor is not None and tensor.ndim > s.dim
            if tensor is None or not known or int(s.index.max()) >= _size(s, tensor.shape):
                raise SteppeError(
                    "groups of channels belong to one model",
                    got=f"{s.name}, of other groups than this model's",
                    way_out="steppe.channel_groups of this model, or leave groups out",
                )


def _size(s: Slice, shape: Sequence[int]) -> int:
    """How many positions a slice counts in a tensor of a shape."""
    return shape[s.dim] * (shape[0] if s.stacked else 1)


def _alive(group: Group, kept: Tensor) -> Tensor:
    if kept.shape != (group.units,):
        raise SteppeError(
            "what is kept of a group is one boolean for each of its units",
            got=f"{tuple(kept.shape)} for the {group.units} units of {group.name}",
            way_out=f"torch.ones({group.units}, dtype=torch.bool), with False where one goes",
        )
    return kept.cpu()


def masks_of(
    groups: Sequence[Group], kept: Mapping[str, Tensor], like: Mapping[str, Tensor]
) -> Tensors:
    """Masks (True = kept) of all tensors that any group touches.

    Args:
        groups: of a model.
        kept: group name -> ``[units]`` booleans; a group that is not named is kept whole.
        like: name -> tensor, for shape and device; tensors not among them get no mask.

    Example:
        >>> rows = Slice("a.weight", 0, torch.arange(2).view(2, 1), "output")
        >>> columns = Slice("b.weight", 1, torch.arange(2).view(2, 1), "input")
        >>> weights = {"a.weight": torch.ones(2, 1), "b.weight": torch.ones(1, 2)}
        >>> kept = {"a.weight": torch.tensor([True, False])}
        >>> masks_of([Group("a.weight", (rows, columns))], kept, weights)
        {'a.weight': tensor([[ True],
                [False]]), 'b.weight': tensor([[ True, False]])}
    """
    masks: Tensors = {}
    for group in groups:
        for s in group.slices:
            if s.name not in like:
                continue
            if s.name not in masks:
                tensor = like[s.name]
                masks[s.name] = torch.ones(tensor.shape, dtype=torch.bool, device=tensor.device)
            if group.name in kept:
                s.fill(masks[s.name], ~_alive(group, kept[group.name]), False)
    return masks


def positions(
    groups: Sequence[Group], kept: Mapping[str, Tensor], shapes: Mapping[str, Sequence[int]]
) -> dict[str, dict[int, Tensor]]:
    """What stays of each tensor when the units that are not kept are sliced out.

    Args:
        groups: of a model.
        kept: group name -> ``[units]`` booleans.
        shapes: name -> shape of every tensor of the model.

    Returns:
        name -> dimension -> the positions that stay, ascending; of stacked experts
        ``[experts, positions]``, those of each. Tensors that lose nothing are left out.

    Example:
        >>> rows = Slice("a.weight", 0, torch.arange(3).view(3, 1), "output")
        >>> gone = {"a.weight": torch.tensor([True, False, True])}
        >>> positions([Group("a.weight", (rows,))], gone, {"a.weight": (3, 5)})
        {'a.weight': {0: tensor([0, 2])}}
    """
    stays: dict[str, dict[int, Tensor]] = {}
    for group in groups:
        if group.name not in kept:
            continue
        alive = _alive(group, kept[group.name])
        if bool(alive.all()):
            continue
        for s in group.slices:
            dims = stays.setdefault(s.name, {})
            size = shapes[s.name][s.dim]
            whole = (shapes[s.name][0], size) if s.stacked else (size,)
            mask = dims.setdefault(s.dim, torch.ones(whole, dtype=torch.bool))
            mask.view(-1)[s.index[~alive].reshape(-1)] = False
    return {
        name: {dim: _places(mask) for dim, mask in dims.items()} for name, dims in stays.items()
    }


def _places(mask: Tensor) -> Tensor:
    """Where a mask is True, along its last dimension; equally often in all rows."""
    kept = mask.sum(-1)
    assert bool((kept == kept.max()).all()), "all experts keep as many"
    return mask.nonzero()[:, -1].view(*mask.shape[:-1], -1)
