"""The least important units go until the network costs no more than allowed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from steppe.core.cost import Cost, most_sparse
from steppe.core.errors import SteppeError
from steppe.core.group import Group


class Chunk(NamedTuple):
    """Units of one group that go at once: as many as keep its width a multiple."""

    saliency: float
    group: int
    left: int
    """Units that the group keeps when this chunk and all before it are gone."""
    size: int
    """How many go."""
    dead: bool
    """Whether a unit of it has no saliency at all: it was gone before and may not return."""


def chunks_of(saliencies: Tensor, group: Group, number: int) -> list[Chunk]:
    """The group's units, least important first, in portions that leave multiples.

    Args:
        saliencies: ``[units]``, ranked by absolute value.
        group: whose they are.
        number: its place among all groups.

    Example:
        >>> from steppe.core.group import Slice
        >>> group = Group("a", (Slice("a", 0, torch.arange(5).view(5, 1), "output"),), multiple=2)
        >>> [c.left for c in chunks_of(torch.arange(5.0), group, 0)]
        [4, 2]
    """
    ranked = saliencies.abs().double().sort().values
    units, chunks, left = group.units, [], group.units
    while left > group.least:
        to = max((left - 1) // group.multiple * group.multiple, group.least)
        part = ranked[units - left : units - to]
        chunks.append(Chunk(float(part.mean()), number, to, len(part), not bool(part[0])))
        left = to
    return chunks


def widths(groups: Sequence[Group], gone: Sequence[Chunk]) -> dict[str, int]:
    """Group name -> units that stay when these chunks are gone."""
    kept = {g.name: g.units for g in groups}
    for chunk in gone:
        kept[groups[chunk.group].name] = chunk.left
    return kept


def meet_cost(
    units: Mapping[str, Tensor], groups: Sequence[Group], cost: Cost, allowed: float
) -> dict[str, Tensor]:
    """Which units stay: the least salient go until ``cost.total <= allowed``.

    Units go in chunks that leave each group a multiple of its ``multiple``; chunks are ordered by
    their mean saliency, and never out of turn within a group. The shortest sufficient prefix is
    found by bisection. Where its last chunk overshoots by more than the tolerance, chunks that
    overshoot are passed over for the next ones that do not, and the last that went may return; if
    need be one group ends at a width that is no multiple.

    Args:
        units: group name -> ``[units]`` saliencies, ranked by absolute value.
        groups: of the network.
        cost: what counts.
        allowed: the most it may come to.

    Returns:
        Group name -> ``[units]`` booleans, True = kept.

    Raises:
        SteppeError: the fewest units that must stay cost more than is allowed.

    Source: global ranking as in AdaSAP_P and Molchanov et al. 2019; the chunks are HALP's groups.
    """
    chunks = [c for i, g in enumerate(groups) for c in chunks_of(units[g.name], g, i)]
    order = sorted(chunks, key=lambda c: (c.saliency, c.group, -c.left))
    low, high = 0, len(order)
    if cost.total(widths(groups, order)) > allowed:
        raise SteppeError(
            f"a target in {cost.unit} must leave room for what has to stay",
            got=f"at most {allowed:,.6g}, while the fewest channels need "
            f"{cost.total(widths(groups, order)):,.6g}",
            way_out=f"{most_sparse(cost, widths(groups, order))}, a smaller round_to, or fewer "
            "excluded layers",
        )
    while low < high:
        middle = (low + high) // 2
        if cost.total(widths(groups, order[:middle])) <= allowed:
            high = middle
        else:
            low = middle + 1
    gone = order[:low]
    if gone and cost.total(widths(groups, gone)) < (1 - cost.tolerance) * allowed:
        gone = _closer(order, low, groups, cost, allowed)
    return _kept(units, groups, _ragged(gone, groups, cost, allowed))


def _closer(
    order: Sequence[Chunk], low: int, groups: Sequence[Group], cost: Cost, allowed: float
) -> list[Chunk]:
    """Closer to what is allowed than the prefix that overshoots.

    First by later chunks: one that overshoots is passed over, and is the answer if nothing comes
    closer. Then chunks return, the last that went first. Where the path parts depends on what was
    met, not on ``allowed``: a smaller target never leaves more.
    """
    gone, best = list(order[: low - 1]), list(order[:low])
    floor = cost.total(widths(groups, best))
    blocked = {best[-1].group}  # what lies behind a chunk that stays may not go before it
    for chunk in order[low:]:
        if chunk.group in blocked:
            continue
        total = cost.total(widths(groups, [*gone, chunk]))
        if total > allowed:
            gone.append(chunk)
            continue
        blocked.add(chunk.group)
        if total > floor:
            floor, best = total, [*gone, chunk]
            if total >= (1 - cost.tolerance) * allowed:
                return best
    blocked = set()
    for chunk in reversed(best):
        rest = [c for c in best if c is not chunk]
        if chunk.group in blocked or chunk.dead:
            continue
        total = cost.total(widths(groups, rest))
        if total > allowed:
            blocked.add(chunk.group)
            continue
        best = rest
        if total >= (1 - cost.tolerance) * allowed:
            break
    return best


def _ragged(
    gone: Sequence[Chunk], groups: Sequence[Group], cost: Cost, allowed: float
) -> dict[str, int]:
    """The widths; where they still cost too little, one group gets a part of a chunk back.

    A target matters more than one layer's round width.
    """
    kept = widths(groups, gone)
    best, most = kept, cost.total(kept)
    seen: set[int] = set()
    for chunk in reversed(gone):
        if most >= (1 - cost.tolerance) * allowed:
            break
        if chunk.group in seen or chunk.dead:
            continue
        seen.add(chunk.group)
        name = groups[chunk.group].name
        for width in range(chunk.left + 1, min(chunk.left + chunk.size, groups[chunk.group].units)):
            total = cost.total(kept | {name: width})
            if most < total <= allowed:
                best, most = kept | {name: width}, total
    return best


def _kept(
    units: Mapping[str, Tensor], groups: Sequence[Group], wanted: Mapping[str, int]
) -> dict[str, Tensor]:
    kept = {}
    for group in groups:
        values = units[group.name].abs()
        # stable, so that of equal units the earliest stay whatever the device
        order = values.double().sort(descending=True, stable=True).indices
        mask = torch.zeros(group.units, dtype=torch.bool, device=values.device)
        mask[order[: wanted[group.name]]] = True
        kept[group.name] = mask
    return kept


def fill(
    units: Mapping[str, Tensor],
    groups: Sequence[Group],
    cost: Cost,
    allowed: float,
    kept: Mapping[str, Tensor],
) -> dict[str, Tensor]:
    """Units return, the most salient first, where a choice fell short of what is allowed.

    Group by group, as many as fit, until the cost is within its tolerance. Units without any
    saliency were gone before and stay so.

    Args:
        units: group name -> ``[units]`` saliencies.
        groups: of the network.
        cost: what counts.
        allowed: the most it may come to.
        kept: group name -> ``[units]`` booleans, a choice that costs no more than that.

    Returns:
        The same choice with more units, where more fit.
    """
    wider = {name: mask.clone() for name, mask in kept.items()}
    sizes = {name: int(mask.sum()) for name, mask in wider.items()}
    free = {n: units[n].abs().double().masked_fill(wider[n], 0.0) for n in wider}
    for group in sorted(groups, key=lambda g: -float(free[g.name].max())):
        if cost.total(sizes) >= (1 - cost.tolerance) * allowed:
            break
        name = group.name
        order = free[name].sort(descending=True, stable=True)
        for value, unit in zip(order.values.tolist(), order.indices.tolist(), strict=True):
            if value == 0.0 or cost.total(sizes | {name: sizes[name] + 1}) > allowed:
                break
            wider[name][unit] = True
            sizes[name] += 1
    return wider
