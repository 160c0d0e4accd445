"""Which units of a group are zero, and so can go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from steppe.core.group import Group


def units_to_keep(
    group: Group, tensors: Mapping[str, Tensor], silenced: Tensor | None = None
) -> tuple[Tensor, int]:
    """Which units of a group stay, and how many zero ones among them.

    Args:
        group: its multiple and its least number are kept to.
        tensors: name -> weight.
        silenced: ``[units]`` booleans: others that count as zero, see `silenced_by_norms`.

    Returns:
        ``[units]`` booleans, and the number of units that are zero and kept only for the multiple,
        the lowest first.
    """
    dead = zero_units(group, tensors)
    if silenced is not None:
        dead = dead | silenced
    alive = ~dead
    count = int(alive.sum())
    wanted = max(group.least, -(-count // group.multiple) * group.multiple)
    spare = min(wanted, group.units) - count
    alive[dead.nonzero().flatten()[:spare]] = True
    return alive, spare


def zero_units(group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
    """``[units]``: all that reads a unit is zero, or all that computes it."""
    dead = _zero(group, tensors, ("input",))
    if not _norms_without_scale(group):
        dead |= _zero(group, tensors, ("output", "bias", "norm"))
    return dead


def silenced_by_norms(model: nn.Module, group: Group, tensors: Mapping[str, Tensor]) -> Tensor:
    """``[units]``: the norms that a unit passes make nothing of it.

    The shift of every norm is zero, and so is either its scale, or all that computes the unit with
    the running mean. Such a unit is gone unless something reads it in front of its norm, which
    only a comparison of outputs tells.
    """
    modules = dict(model.named_modules())
    owners = {s.name.rpartition(".")[0] for s in group.slices if s.role == "norm"}
    norms = {name for name in owners if isinstance(modules.get(name), _NormBase)}
    if not norms or _norms_without_scale(group):
        return torch.zeros(group.units, dtype=torch.bool)
    scale, shift, mean = (
        _all_zero(group, tensors, {f"{name}.{which}" for name in norms})
        for which in ("weight", "bias", "running_mean")
    )
    return shift & (scale | (mean & _zero(group, tensors, ("output", "bias"))))


def _all_zero(group: Group, tensors: Mapping[str, Tensor], names: set[str]) -> Tensor:
    rows = [s.rows(tensors[s.name]) for s in group.slices if s.name in names and s.name in tensors]
    if not rows:  # e.g. a norm without running statistics
        return torch.ones(group.units, dtype=torch.bool)
    return (torch.cat(rows, dim=1) == 0).all(dim=1).cpu()


def half_zero(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> int:
    """How many units have zero weights, or a zero scale, but are not zero themselves."""
    count = 0
    for group in groups:
        rows = _zero(group, tensors, ("output",))
        scales = {s.name for s in group.slices if s.role == "norm" and s.name.endswith("weight")}
        if scales:
            rows |= _all_zero(group, tensors, scales)
        count += int((rows & ~zero_units(group, tensors)).sum())
    return count


def _zero(group: Group, tensors: Mapping[str, Tensor], roles: tuple[str, ...]) -> Tensor:
    if not any(s.role in roles for s in group.slices):
        return torch.zeros(group.units, dtype=torch.bool)
    return (group.members(tensors, roles) == 0).all(dim=1).cpu()


def _norms_without_scale(group: Group) -> bool:
    """A norm that has statistics but no scale gives zero rows another value than zero."""
    norms = {s.name.rpartition(".")[0] for s in group.slices if s.role == "buffer"}
    return not norms <= {s.name.rpartition(".")[0] for s in group.slices if s.role == "norm"}
