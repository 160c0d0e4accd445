"""The groups of coupled channels of any model.

Known transformers are recognised by the names of their modules; every other network is traced.
Both are proved by a trial removal.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.core.notes import note
from steppe.removal.copies import CannotCopy
from steppe.removal.dependency_graph import (
    CoupledChannels,
    all_stay,
    excluded_names,
    trace_channels,
)
from steppe.removal.example import example_of
from steppe.removal.forward import call, inputs_for, untouched
from steppe.removal.left_out import reasons_by_name
from steppe.removal.transformer_groups import tied_names, transformer_groups
from steppe.removal.transformer_patterns import sublayers_of
from steppe.removal.trial import prove_groups


def channel_groups(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
    prove: bool = True,
) -> list[Group]:
    """The groups of coupled channels, heads and neurons of a model.

    A trial removal on a copy proves them: what would not run, or would compute something else,
    stays.

    Args:
        model: a transformer whose modules are known by name, or any other network.
        example_inputs: one batch, see `traced_groups`; models of transformers need none where
            one can be made for them.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.
        prove: by a trial removal, for which the weights of the groups are copied twice.

    Returns:
        Groups that never overlap; none, with a warning that says why, where every channel must
        stay.

    Raises:
        SteppeError: see `traced_groups` and `transformer_groups`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [g.units for g in channel_groups(net, torch.zeros(1, 3))]
        [4]
    """
    coupled = coupled_channels(
        model, example_inputs, exclude=exclude, round_to=round_to, prove=prove
    )
    if not coupled.groups:
        note(f"no channels can go: {all_stay(model, coupled.left_out)}", stacklevel=2)
    return coupled.groups


def coupled_channels(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
    prove: bool = True,
) -> CoupledChannels:
    """As `channel_groups`, with the reasons why other weights keep their channels."""
    model = unwrap(model)
    if any(nn.parameter.is_lazy(tensor) for tensor in (*model.parameters(), *model.buffers())):
        raise SteppeError(
            "a model whose channels are found has weights of known sizes",
            got=f"{type(model).__name__} with lazy layers",
            way_out="run it once on a batch before, e.g. model(example_inputs)",
        )
    by_name = is_transformer(model, exclude)
    if example_inputs is None and (prove or not by_name):
        example_inputs = _own_example(model)
    if by_name:
        coupled = _by_name(model, exclude, round_to)
        if example_inputs is None and prove:
            _unproved(model, "without example_inputs, which prove them")
    elif example_inputs is None:
        raise SteppeError(
            "a network that is no known transformer is run once to find its groups",
            got=f"{type(model).__name__} without example_inputs",
            way_out="give one batch, e.g. example_inputs=torch.zeros(1, 3, 32, 32), and exclude "
            "its attention, if any",
        )
    else:
        coupled = trace_channels(model, example_inputs, exclude=exclude, round_to=round_to)
    if example_inputs is None or not coupled.groups or not prove:
        return coupled
    return _proved(model, coupled, example_inputs)


def is_transformer(model: nn.Module, exclude: Sequence[str] = ()) -> bool:
    """Whether a model's groups are found by name: it has heads, or is of transformers, with MLPs.

    This says nothing of inputs, so that a model takes the same way with and without them.
    """
    model = unwrap(model)
    kinds = {sublayer.kind for sublayer in sublayers_of(model, excluded_names(model, exclude))}
    of_transformers = hasattr(getattr(model, "config", None), "to_dict")
    return "head" in kinds or (of_transformers and bool(kinds))


def _by_name(model: nn.Module, exclude: Sequence[str], round_to: int) -> CoupledChannels:
    groups = transformer_groups(model, exclude=exclude, round_to=round_to)
    if not groups:
        raise SteppeError(
            "some heads or neurons must be free to go",
            got=f"{type(model).__name__} with everything excluded or tied",
            way_out="exclude fewer modules",
        )
    excluded = excluded_names(model, exclude)
    return CoupledChannels(groups, reasons_by_name(model, groups, excluded, tied_names(model)))


def _own_example(model: nn.Module) -> Any:
    """A batch that is made for a model of transformers; None where none can be."""
    try:
        example = example_of(model)
        with untouched(model):
            call(model, inputs_for(model, example))
        return example
    except SteppeError:
        return None


def _proved(model: nn.Module, coupled: CoupledChannels, example_inputs: Any) -> CoupledChannels:
    """The groups that a trial removal proves; the others' weights, with what went wrong."""
    try:
        groups, faults = prove_groups(model, coupled.groups, example_inputs)
    except CannotCopy as error:
        _unproved(model, f"since it is {error.got}")
        return coupled
    left_out = dict(coupled.left_out)
    inside = {s.name for group in groups for s in group.slices}
    for group in coupled.groups:
        if group.name in faults:
            for s in group.slices:
                if s.role == "output":
                    left_out[s.name] = faults[group.name]
                elif s.role == "input" and s.name not in inside:
                    left_out.setdefault(s.name, faults[group.name])
    return CoupledChannels(groups, left_out)


def _unproved(model: nn.Module, why: str) -> None:
    note(
        f"no trial removal has proved the groups of {type(model).__name__}, {why}; remove() "
        "checks what it does",
        stacklevel=5,
    )
