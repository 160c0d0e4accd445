"""Which channels of a network go together: found by running it once and following them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)
from torch.utils._python_dispatch import TorchDispatchMode

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.atoms import Atoms, Labels
from steppe.removal.rules import Flight, follow


@dataclass(frozen=True, eq=False)
class Found:
    """What could be removed of a model, and what not.

    Args:
        groups: of coupled channels.
        left_out: name of a weight -> why some of its channels must stay.
    """

    groups: list[Group]
    left_out: dict[str, str]


def channel_groups(
    model: nn.Module, example_inputs: Any, *, exclude: Sequence[str] = (), round_to: int = 1
) -> list[Group]:
    """The groups of coupled channels of a network; the model is left as it was.

    The network runs once, and every channel is followed through every operation. What reaches the
    output, a norm over channels, a size written in the code or an excluded layer stays.

    Args:
        model: any module on any device; wrappers are looked through.
        example_inputs: one batch that the model accepts: a tensor, a tuple of arguments, or a dict
            of keyword arguments.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        Groups that never overlap, in the order of the model's weights.

    Raises:
        SteppeError: the model refuses the inputs, an operation cannot be followed, a pattern
            matches nothing, or nothing is left.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> channel_groups(net, torch.zeros(1, 3))
        [Group(name='0.weight', multiple=1, kind='channel')]
    """
    return found(model, example_inputs, exclude=exclude, round_to=round_to).groups


def found(
    model: nn.Module, example_inputs: Any, *, exclude: Sequence[str] = (), round_to: int = 1
) -> Found:
    """As `channel_groups`, with the reasons why other channels must stay."""
    model = unwrap(model)
    excluded = matched(model, exclude)
    atoms = _traced(model, example_inputs)
    for name, labels in _excluded_labels(model, atoms, excluded):
        atoms.fix(labels, f"belongs to {name}, which is excluded")
    _judge_lost(atoms, excluded)
    component = atoms.components()
    free = atoms.able(component)
    for labels, _ in atoms.fixed:
        free[component[labels]] = False
    groups = atoms.groups(component, free, round_to)
    left_out = _reasons(atoms, component, ~free)
    if not groups:
        raise SteppeError(
            "some channels must be free to go",
            got=f"{type(model).__name__}, of which all must stay"
            + "".join(f" ({name} {why})" for name, why in list(left_out.items())[:2]),
            way_out="exclude fewer layers; the last layer and norms over channels cannot go",
        )
    return Found(groups, left_out)


def matched(model: nn.Module, exclude: Sequence[str]) -> set[str]:
    """The modules and parameters that the patterns name, with all that lies inside.

    Raises:
        SteppeError: a pattern matches nothing.
    """
    modules = [name for name, _ in model.named_modules() if name]
    names = modules + [name for name, _ in model.named_parameters()]
    hit: set[str] = set()
    for pattern in exclude:
        held = {name for name in names if fnmatchcase(name, pattern)}
        if not held:
            raise SteppeError(
                "a pattern must match the name of a module or a parameter",
                got=repr(pattern),
                consequence="it would silently do nothing",
                way_out="names look like " + ", ".join(modules[:3] or names[:3]),
            )
        hit |= held
    return {n for n in names if n in hit or any(n.startswith(f"{h}.") for h in hit)}


def _excluded_labels(
    model: nn.Module, atoms: Atoms, excluded: set[str]
) -> Iterator[tuple[str, Labels | None]]:
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in excluded or name.rpartition(".")[0] in excluded:
            for labels in atoms.of.get(id(parameter), ()):
                yield name, labels


def _judge_lost(atoms: Atoms, excluded: set[str]) -> None:
    """What could not be followed is an error where it matters, unless it is excluded."""
    for labels, module, _ in atoms.lost:
        if module in excluded:
            atoms.fix(labels, f"belongs to {module}, which is excluded")
    component = atoms.components()
    free = np.zeros_like(component, dtype=bool)
    free[component[atoms.is_output]] = True
    for labels, _ in atoms.fixed:
        free[component[labels]] = False
    for labels, module, operation in atoms.lost:
        if module not in excluded and free[component[labels]].any():
            raise SteppeError(
                "channels can be followed through convolutions, linear layers, batch norm, "
                "pooling, concatenation and elementwise operations",
                got=f"{operation} in {module or 'the model itself'}",
                consequence="what would have to go with a channel is not known",
                way_out=f"exclude={[module]!r}" if module else "put it into a module, exclude that",
            )
        atoms.fix(labels, f"goes through {operation} in {module}")


def _reasons(atoms: Atoms, component: Any, kept: Any) -> dict[str, str]:
    """Name of a weight -> the first reason why some of its channels stay."""
    why: dict[int, str] = {}
    for labels, reason in atoms.fixed:
        for one in np.unique(component[labels]).tolist():
            why.setdefault(one, reason)
    reasons: dict[str, str] = {}
    for atom in np.flatnonzero(atoms.is_output & kept[component]).tolist():
        name = atoms.slots[atoms.slot_of[atom]][0]
        reasons.setdefault(name, why.get(int(component[atom]), "is read by nothing in this run"))
    return reasons


class _Follower(TorchDispatchMode):
    """Sees every operation of torch while the model runs."""

    def __init__(self, flight: Flight) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flight = flight
        self.modules: list[str] = []

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        flight = self.flight
        tensors = [t for t in tensors_of([args, kwargs]) if isinstance(t, Tensor)]
        labels = [one for t in tensors for one in flight.of(t) if one is not None]
        if labels:
            module = self.modules[-1] if self.modules else ""
            flight.where = f" in {module}" if module else ""
            if not follow(flight, func, (*args, *(kwargs or {}).values()), out):
                flight.atoms.lose(labels, module, func.overloadpacket.__name__)
        return out


def _traced(model: nn.Module, example_inputs: Any) -> Atoms:
    atoms = Atoms(model)
    flight = Flight(atoms)
    follower = _Follower(flight)
    names = {id(module): name for name, module in model.named_modules()}

    def enter(module: nn.Module, args: Any) -> None:
        follower.modules.append(names.get(id(module), ""))
        flight.shortcut = pads(module)

    def leave(module: nn.Module, args: Any, out: Any) -> None:
        follower.modules.pop()
        inside = follower.modules[-1] if follower.modules else ""
        flight.shortcut = pads(model.get_submodule(inside))

    own = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    inputs = moved(example_inputs, own.dtype, own.device)
    with untouched(model):
        hooks = [register_module_forward_pre_hook(enter), register_module_forward_hook(leave)]
        try:
            with follower:
                out = call(model, inputs)
        finally:
            for hook in hooks:
                hook.remove()
    for tensor in tensors_of(out):
        for labels in flight.of(tensor):
            atoms.fix(labels, "reaches the model's output")
    return atoms


def pads(module: nn.Module) -> tuple[int, int] | None:
    """The zeros in front of and behind the channels of a shortcut (He et al. 2016, option A)."""
    sizes = [getattr(module, name, None) for name in ("front", "back")]
    convs = [getattr(module, name, None) for name in ("conv1", "conv2")]
    if all(isinstance(s, int) for s in sizes) and all(isinstance(c, nn.Conv2d) for c in convs):
        return sizes[0], sizes[1]  # type: ignore[return-value]
    return None


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Run a model on a tensor, a tuple of arguments or a dict of keyword arguments.

    Raises:
        SteppeError: the model refuses them.
    """
    if isinstance(example_inputs, Mapping):
        run = partial(model, **example_inputs)
    elif isinstance(example_inputs, list | tuple):
        run = partial(model, *example_inputs)
    else:
        run = partial(model, example_inputs)
    try:
        return run()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, SteppeError):
            raise
        given = ", ".join(str(tuple(t.shape)) for t in tensors_of(example_inputs)) or "nothing"
        raise SteppeError(
            "a model must accept its example inputs",
            got=f"{given}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}",
            way_out="give one batch as the model takes it: a tensor, a tuple of arguments or a "
            "dict of keyword arguments, e.g. torch.zeros(1, 3, 32, 32)",
        ) from error


def moved(tree: Any, kind: torch.dtype, place: torch.device) -> Any:
    """Inputs of a model on a device, what is real in a dtype."""
    if isinstance(tree, Tensor):
        return tree.to(place, kind) if tree.is_floating_point() else tree.to(place)
    if isinstance(tree, Mapping):
        return {key: moved(value, kind, place) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(moved(value, kind, place) for value in tree)
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples, dicts and transformers' outputs."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [t for one in tree for t in tensors_of(one)]
    if hasattr(tree, "__dict__") and not isinstance(tree, type | nn.Module):
        return [t for t in vars(tree).values() if isinstance(t, Tensor)]
    return []


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; afterwards all is as it was, random numbers too."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {t.device for t in model.parameters() if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            for module, _ in modes:
                module.training = False
            yield
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
    finally:
        for module, training in modes:
            module.training = training
