"""Why weights keep their channels: every weight that no group touches has a reason."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from steppe.core.group import Group
from steppe.removal.channel_labels import ChannelLabels


def fix_unread(model: nn.Module, channels: ChannelLabels, seen: set[int], unrun: str) -> None:
    """What a layer that never ran may read or write must stay: the channels of its widths.

    Args:
        model: after tracing.
        channels: its labels; more are fixed.
        seen: ids of the tensors that were read.
        unrun: why training mode did not run; "" if it did.
    """
    users: dict[int, str] = {}
    for name, tensor in _never_run(model, seen):
        for labels in channels.of_tensor[id(tensor)]:
            if labels is not None:
                users.setdefault(len(labels), name)
    why = f" (training mode does not run on them: {unrun})" if unrun else ""
    if not users:
        return
    for tensor in channels.tensors:
        if id(tensor) not in seen:
            continue
        for labels in channels.of_tensor[id(tensor)]:
            if labels is not None and len(labels) in users:
                user = users[len(labels)]
                channels.fix(
                    labels,
                    f"may be read or written by {user}, which never runs on these inputs{why}",
                )


def _never_run(model: nn.Module, seen: set[int]) -> Iterator[tuple[str, Tensor]]:
    """Weights that nothing read; vectors only where their whole layer was never used."""
    for module_name, module in model.named_modules():
        own = list(module.named_parameters(recurse=False))
        unused = own and all(id(p) not in seen for _, p in own)
        for name, parameter in own:
            wide = sum(size > 1 for size in parameter.shape) > 1
            is_layer = next(module.children(), None) is None
            if id(parameter) not in seen and (wide or (unused and is_layer)):
                yield f"{module_name}.{name}" if module_name else name, parameter


def reasons(
    model: nn.Module,
    channels: ChannelLabels,
    component: Any,
    kept: Any,
    groups: Sequence[Group],
    seen: Collection[int],
) -> dict[str, str]:
    """Name of a weight -> the first reason why some of its channels stay.

    Args:
        model: after tracing.
        channels: its labels.
        component: of each label.
        kept: of each component, whether it must stay.
        groups: that are free; every other weight of two or more dimensions gets a reason.
        seen: ids of the tensors that were read.
    """
    reason_of: dict[int, str] = {}
    for labels, reason in channels.fixed:
        for number in np.unique(component[labels]).tolist():
            reason_of.setdefault(number, reason)
    told: dict[str, str] = {}
    for label in np.flatnonzero(channels.is_output & kept[component]).tolist():
        name = channels.dimensions[channels.dimension_of[label]][0]
        reason = reason_of.get(int(component[label]), "is read by nothing in this run")
        told.setdefault(name, reason)
    inside = {s.name for group in groups for s in group.slices}
    for name, parameter in model.named_parameters():
        if (derived := _derived(model, name)) and parameter.ndim > 1:
            told[name] = derived
        if id(parameter) not in seen and parameter.ndim > 1:
            told[name] = "never runs on these inputs"
        if parameter.ndim > 1 and name not in inside and name not in told:
            own = [d for d in channels.of_tensor[id(parameter)] if d is not None]
            numbers = {int(component[label]) for labels in own for label in labels.tolist()}
            first = next((reason_of[n] for n in sorted(numbers) if n in reason_of), None)
            told[name] = first or "has no channel that a layer computes and another one reads"
    order = {name: i for i, (name, _) in enumerate(model.named_parameters())}
    return dict(sorted(told.items(), key=lambda item: order.get(item[0], len(order))))


def _derived(model: nn.Module, name: str) -> str:
    """Why a weight stays that others are computed from; "" if none is."""
    owner, _, own = name.rpartition(".")
    if ".parametrizations." in f".{name}":
        return "belongs to a parametrisation (torch.nn.utils.parametrize.remove_parametrizations)"
    plain = own.removesuffix("_orig").removesuffix("_v").removesuffix("_g")
    if plain != own and isinstance(vars(dict(model.named_modules())[owner]).get(plain), Tensor):
        return f"is what {plain} is computed from (torch.nn.utils.prune.remove or the like)"
    return ""


def reasons_by_name(
    model: nn.Module, groups: Sequence[Group], excluded: Collection[str], tied: Collection[str]
) -> dict[str, str]:
    """As `reasons`, for a model whose groups are found by the names of its modules."""
    inside = {s.name for group in groups for s in group.slices}
    told = {}
    for name, parameter in model.named_parameters():
        if parameter.ndim < 2 or name in inside:
            continue
        if name in excluded:
            told[name] = "is excluded"
        elif name in tied:
            told[name] = "is tied to another weight"
        else:
            told[name] = "lies in no attention and no MLP whose form is known by its names"
    return told
