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
    """``[units]``: scale and shift of every norm that a unit passes are zero.

    Such a unit is gone unless something reads it in front of its norm, which only a comparison
    of outputs tells.
    """
    modules = dict(model.named_modules())
    owners = {s.name.rpartition(".")[0] for s in group.slices if s.role == "norm"}
    norms = {name for name in owners if isinstance(modules.get(name), _NormBase)}
    names = {f"{name}.{which}" for name in norms for which in ("weight", "bias")}
    slices = [s for s in group.slices if s.name in names]
    if not norms or len(slices) != 2 * len(norms) or _norms_without_scale(group):
        return torch.zeros(group.units, dtype=torch.bool)
    rows = torch.cat([s.rows(tensors[s.name]) for s in slices], dim=1)
    return (rows == 0).all(dim=1).cpu()


def half_zero(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> int:
    """How many units have zero weights, but a bias or a shift that is not zero."""
    count = 0
    for group in groups:
        rows = _zero(group, tensors, ("output",))
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
