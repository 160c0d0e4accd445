"""The dependency graph of a network's channels, traced in one forward pass.

Every channel of every weight gets a label. The labels are propagated through each traced operation;
an operation that aligns two channels couples them. Coupled channels must be removed together.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.channel_labels import ChannelLabels, Labels
from steppe.removal.forward import call, tensors_of, to_device, untouched
from steppe.removal.label_propagation import LabelPropagation, propagate


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

    The network runs once, and every channel is traced through every operation. Channels that reach
    the output, a norm over channels, a size written in the code or an excluded layer must stay.

    Args:
        model: any module on any device; wrappers are unwrapped.
        example_inputs: one batch that the model accepts: a tensor, a tuple of arguments, or a dict
            of keyword arguments.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        Groups that never overlap, in the order of the model's weights.

    Raises:
        SteppeError: the model refuses the inputs, an operation cannot be traced, a pattern
            matches nothing, or no channel can be removed.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> traced_groups(net, torch.zeros(1, 3))
        [Group(name='0.weight', multiple=1, kind='channel')]
    """
    return trace_channels(model, example_inputs, exclude=exclude, round_to=round_to).groups


def trace_channels(
    model: nn.Module, example_inputs: Any, *, exclude: Sequence[str] = (), round_to: int = 1
) -> CoupledChannels:
    """As `traced_groups`, with the reasons why other channels must stay."""
    model = unwrap(model)
    excluded = excluded_names(model, exclude)
    channels = _trace(model, example_inputs)
    for name, labels in _excluded_labels(model, channels, excluded):
        channels.fix(labels, f"belongs to {name}, which is excluded")
    _fix_untraced(channels, excluded)
    component = channels.components()
    free = channels.removable(component)
    for labels, _ in channels.fixed:
        free[component[labels]] = False
    groups = channels.groups(component, free, round_to)
    left_out = _reasons(channels, component, ~free)
    if not groups:
        raise SteppeError(
            "some channels must be free to go",
            got=f"{type(model).__name__}, of which all must stay"
            + "".join(f" ({name} {reason})" for name, reason in list(left_out.items())[:2]),
            way_out="exclude fewer layers; the last layer and norms over channels cannot go",
        )
    return CoupledChannels(groups, left_out)


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


def _fix_untraced(channels: ChannelLabels, excluded: set[str]) -> None:
    """Untraced channels are fixed; an error if they would otherwise be free and not excluded."""
    for labels, module, _ in channels.untraced:
        if module in excluded:
            channels.fix(labels, f"belongs to {module}, which is excluded")
    component = channels.components()
    free = np.zeros_like(component, dtype=bool)
    free[component[channels.is_output]] = True
    for labels, _ in channels.fixed:
        free[component[labels]] = False
    for labels, module, operation in channels.untraced:
        if module not in excluded and free[component[labels]].any():
            raise SteppeError(
                "channels can be traced through convolutions, linear layers, batch norm, "
                "pooling, concatenation and elementwise operations",
                got=f"{operation} in {module or 'the model itself'}",
                consequence="what would have to go with a channel is not known",
                way_out=f"exclude={[module]!r}" if module else "put it into a module, exclude that",
            )
        channels.fix(labels, f"goes through {operation} in {module}")


def _reasons(channels: ChannelLabels, component: Any, kept: Any) -> dict[str, str]:
    """Name of a weight -> the first reason why some of its channels stay."""
    reason_of: dict[int, str] = {}
    for labels, reason in channels.fixed:
        for number in np.unique(component[labels]).tolist():
            reason_of.setdefault(number, reason)
    reasons: dict[str, str] = {}
    for label in np.flatnonzero(channels.is_output & kept[component]).tolist():
        name = channels.dimensions[channels.dimension_of[label]][0]
        reason = reason_of.get(int(component[label]), "is read by nothing in this run")
        reasons.setdefault(name, reason)
    return reasons


class _Tracer(TorchDispatchMode):
    """Propagates labels through every operation of torch while the model runs."""

    def __init__(self, state: LabelPropagation) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.state = state
        self.modules: list[str] = []
        """The names of the modules that run now, the innermost last."""

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        state = self.state
        tensors = tensors_of([args, kwargs])
        labels = [own for t in tensors for own in state.labels(t) if own is not None]
        if labels:
            module = self.modules[-1] if self.modules else ""
            state.where = f" in {module}" if module else ""
            if not propagate(state, func, (*args, *(kwargs or {}).values()), out):
                state.channels.mark_untraced(labels, module, func.overloadpacket.__name__)
        return out


def _trace(model: nn.Module, example_inputs: Any) -> ChannelLabels:
    """The channel labels of a model after one traced forward pass."""
    channels = ChannelLabels(model)
    state = LabelPropagation(channels)
    tracer = _Tracer(state)
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        tracer.modules.append(names.get(id(module), ""))
        state.shortcut = shortcut_padding(module)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        tracer.modules.pop()
        inside = tracer.modules[-1] if tracer.modules else ""
        state.shortcut = shortcut_padding(model.get_submodule(inside))

    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    inputs = to_device(example_inputs, like.device, like.dtype)
    with untouched(model):
        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            with tracer:
                out = call(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    for tensor in tensors_of(out):
        for labels in state.labels(tensor):
            channels.fix(labels, "reaches the model's output")
    return channels


def shortcut_padding(module: nn.Module) -> tuple[int, int] | None:
    """The zeros in front of and behind the channels of a shortcut (He et al. 2016, option A)."""
    sizes = [getattr(module, name, None) for name in ("front", "back")]
    convs = [getattr(module, name, None) for name in ("conv1", "conv2")]
    if all(isinstance(s, int) for s in sizes) and all(isinstance(c, nn.Conv2d) for c in convs):
        return sizes[0], sizes[1]  # type: ignore[return-value]
    return None
