"""The dependency graph of a network's channels, traced in both of its modes.

Every channel of every weight gets a label. The labels are propagated through each traced operation;
an operation that aligns two channels couples them. Coupled channels must be removed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.channel_labels import ChannelLabels, Labels
from steppe.removal.left_out import fix_unread, reasons
from steppe.removal.tracing import trace


@dataclass(frozen=True, eq=False)
class CoupledChannels:
    """The channels of a model that can be removed, and why others cannot.

    Args:
        groups: of coupled channels.
        left_out: name of a weight -> why some of its channels must stay.
    """

    groups: list[Group]
    left_out: dict[str, str]


def traced_groups(
    model: nn.Module, example_inputs: Any, *, exclude: Sequence[str] = (), round_to: int = 1
) -> list[Group]:
    """The groups of coupled channels of a network; the model is left as it was.

    The network runs once in evaluation and once in training mode, and every channel is traced
    through every operation. Channels that reach the output, a norm over channels, an operation
    without a rule, a size written in the code or an excluded layer must stay.

    Args:
        model: any module on any device; wrappers are unwrapped.
        example_inputs: one batch that the model accepts: a tensor, a tuple of arguments, or a dict
            of keyword arguments.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        Groups that never overlap, in the order of the model's weights.

    Raises:
        SteppeError: the model refuses the inputs, a pattern matches nothing, or no channel can
            be removed.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> traced_groups(net, torch.zeros(1, 3))
        [Group(name='0.weight', multiple=1, kind='channel')]
    """
    traced = trace_channels(model, example_inputs, exclude=exclude, round_to=round_to)
    if not traced.groups:
        raise nothing_free(model, traced.left_out)
    return traced.groups


def trace_channels(
    model: nn.Module, example_inputs: Any, *, exclude: Sequence[str] = (), round_to: int = 1
) -> CoupledChannels:
    """As `traced_groups`, with the reasons why other channels must stay; there may be no group."""
    model = unwrap(model)
    excluded = excluded_names(model, exclude)
    channels, seen, unrun = trace(model, example_inputs)
    # the first reason is the one that is told
    traced, channels.fixed = channels.fixed, []
    for name, labels in _excluded_labels(model, channels, excluded):
        channels.fix(labels, f"belongs to {name}, which is excluded")
    channels.fixed += traced
    fix_unread(model, channels, seen, unrun)
    component = channels.components()
    free = channels.removable(component)
    for labels, _ in channels.fixed:
        free[component[labels]] = False
    groups = channels.groups(component, free, round_to)
    return CoupledChannels(groups, reasons(model, channels, component, ~free, groups, seen))


def nothing_free(model: nn.Module, left_out: Mapping[str, str]) -> SteppeError:
    """The error for a model of which every channel must stay, with the first reasons."""
    return SteppeError(
        "some channels must be free to go",
        got=all_stay(model, left_out),
        way_out="exclude fewer layers; the last layer and norms over channels cannot go",
    )


def all_stay(model: nn.Module, left_out: Mapping[str, str]) -> str:
    """That every channel of a model must stay, with the first reasons."""
    why = "".join(f" ({name} {reason})" for name, reason in list(left_out.items())[:2])
    return f"{type(unwrap(model)).__name__}, of which all must stay{why}"


def excluded_names(model: nn.Module, exclude: Sequence[str]) -> set[str]:
    """The modules and parameters that the patterns match, with everything inside them.

    Raises:
        SteppeError: a pattern matches nothing.
    """
    modules = [name for name, _ in model.named_modules() if name]
    names = modules + [name for name, _ in model.named_parameters()]
    matching: set[str] = set()
    for pattern in exclude:
        matches = {name for name in names if fnmatchcase(name, pattern)}
        if not matches:
            raise SteppeError(
                "a pattern must match the name of a module or a parameter",
                got=repr(pattern),
                consequence="it would silently do nothing",
                way_out="names look like " + ", ".join(modules[:3] or names[:3]),
            )
        matching |= matches
    return {n for n in names if n in matching or any(n.startswith(f"{m}.") for m in matching)}


def _excluded_labels(
    model: nn.Module, channels: ChannelLabels, excluded: set[str]
) -> Iterator[tuple[str, Labels | None]]:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in excluded or name.rpartition(".")[0] in excluded:
            for labels in channels.of_tensor.get(id(parameter), ()):
                yield name, labels
