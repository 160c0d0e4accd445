"""Remove the channels, heads and neurons that are zero, and prove that nothing else changed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, positions, require_fit
from steppe.core.layer import unwrap
from steppe.core.notes import note
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.copies import copy_of
from steppe.removal.dependency_graph import all_stay
from steppe.removal.example import example_of
from steppe.removal.plan import Plan
from steppe.removal.surgery import Stays, migrate, slice_model, slice_states, slice_tensors
from steppe.removal.transformer_config import update_config
from steppe.removal.trial import largest_passing
from steppe.removal.verification import Difference, is_steady, largest_difference
from steppe.removal.zero_units import half_zero, silenced_by_norms, units_to_keep, zero_units


class NotTheSame(SteppeError, AssertionError):
    """The network computes something else after removal than before."""


@dataclass(frozen=True, eq=False)
class Removed:
    """What `remove` did.

    Args:
        model: without the channels.
        plan: what stays; cuts a fresh model alike.
        report: plain values: ``removed`` (group -> units), ``units`` (group -> units before),
            ``rounded`` (group -> zero units kept for the group's multiple), ``parameters``
            (before, after), ``error`` (relative, of the outputs; None without verification),
            ``unchecked`` (why training mode was not compared, "" if it was),
            ``left_out`` (weight -> why its channels must stay),
            ``plain`` ("" when plain ``from_pretrained`` loads it, else why not).
        ema: the averages that were given, cut.
    """

    model: nn.Module
    plan: Plan
    report: dict[str, Any]
    ema: dict[str, Tensor] | None = None


def remove(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    groups: Sequence[Group] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Mapping[str, Tensor] | None = None,
    inplace: bool = False,
    verify: bool = True,
    exclude: Sequence[str] = (),
) -> Removed:
    """Cut out every unit that is zero.

    A unit is zero when all weights that compute it are (their rows, biases, scales and shifts of
    its norms), or all weights that read it. One of which only scale and shift are zero, in all
    norms that it passes, goes where that leaves the outputs as they were. A model without zero
    units comes back whole, with a warning.

    Args:
        model: with zeros in it.
        example_inputs: one batch, see `channel_groups`; transformers need none.
        groups: of the model; found when not given.
        masks: name -> True where a weight stays; the weights are multiplied by them first.
        optimizer: of the model; goes on with what stays, see `migrate`.
        ema: named tensors of the model's shapes, to be cut alike.
        inplace: cut this model; else a copy.
        verify: prove groups that are found here, and compare all outputs with those before, in
            float32, in evaluation and in training mode.
        exclude: patterns of what stays whole, see `channel_groups`; not together with ``groups``.

    Returns:
        The smaller model, the plan and a report.

    Raises:
        NotTheSame: the outputs differ by more than 1e-5 of their largest; nothing was changed.
        SteppeError: see `channel_groups`, `slice_model` and `migrate`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = net[2].weight.data[:, 1:3].zero_()
        >>> done = remove(net, torch.zeros(1, 3))
        >>> done.model[0], done.report["removed"]
        (Linear(in_features=3, out_features=2, bias=True), {'0.weight': 2})
    """
    inner = unwrap(model)
    left_out: dict[str, str] = {}
    if groups is None:
        coupled = coupled_channels(inner, example_inputs, exclude=exclude, prove=verify)
        groups, left_out = coupled.groups, coupled.left_out
    elif exclude:
        raise SteppeError(
            "patterns choose among groups that are found here",
            got="both groups and exclude",
            way_out="give exclude to steppe.channel_groups",
        )
    before = sum(p.numel() for p in inner.parameters())
    tensors = _masked(inner, masks)
    require_fit(groups, tensors)
    example_inputs = example_of(inner) if verify and example_inputs is None else example_inputs
    choice = _chosen(inner, groups, tensors, example_inputs, verify)
    left_out |= choice.spared
    removed = {n: int((~alive).sum()) for n, alive in choice.kept.items() if not alive.all()}
    if not removed:
        why = _why_whole(groups, tensors) if groups else all_stay(inner, left_out)
        note(f"nothing to remove: {why}", stacklevel=2)
    plan = Plan.of(inner, choice.stays, removed=removed)
    own = dict(inner.named_parameters())
    if optimizer is not None:
        slice_states(optimizer, own, choice.stays)  # raises before anything is cut
    if inplace:
        _load(inner, tensors)
        replaced, result = slice_model(inner, choice.stays), model
    else:
        smaller = copy_of(inner, share=False)
        _load(smaller, tensors)
        slice_model(smaller, choice.stays)
        new, result = dict(smaller.named_parameters()), smaller
        replaced = {name: (own[name], new[name]) for name in own}
    if optimizer is not None and replaced:
        migrate(optimizer, replaced, choice.stays)
    report = {
        "removed": removed,
        "units": {group.name: group.units for group in groups},
        "rounded": choice.rounded,
        "parameters": (before, sum(p.numel() for p in unwrap(result).parameters())),
        "error": choice.error,
        "unchecked": choice.unchecked,
        "left_out": left_out,
        "plain": update_config(unwrap(result)),
    }
    averages = None if ema is None else slice_tensors(ema, choice.stays)
    return Removed(result, plan, report, averages)


@dataclass(frozen=True)
class _Choice:
    """What goes, and what the comparison of outputs said.

    Args:
        kept: group name -> ``[units]`` booleans.
        rounded: group name -> zero units that are kept for the multiple.
        stays: see `steppe.core.group.positions`.
        error: of the outputs; None if it was not asked for.
        unchecked: why training mode was not compared; "" if it was.
        spared: group name -> why units whose norm is zero stay.
    """

    kept: dict[str, Tensor]
    rounded: dict[str, int]
    stays: Stays
    error: float | None = None
    unchecked: str = ""
    spared: dict[str, str] = field(default_factory=dict)


def _chosen(
    model: nn.Module,
    groups: Sequence[Group],
    tensors: Mapping[str, Tensor],
    example_inputs: Any,
    verify: bool,
) -> _Choice:
    """The units that go; those whose norm is zero only where the outputs stay the same."""
    if not verify:
        return _decided(groups, tensors, {})
    silenced = {g.name: silenced_by_norms(model, g, tensors) for g in groups}
    more = [g for g in groups if bool((silenced[g.name] & ~zero_units(g, tensors)).any())]

    def attempt(some: Sequence[Group]) -> _Choice:
        choice = _decided(groups, tensors, {g.name: silenced[g.name] for g in some})
        before, after = copy_of(model, changed=tensors), copy_of(model, changed=tensors)
        slice_model(after, choice.stays)
        error, unchecked = _verify(before, after, example_inputs)
        return replace(choice, error=error, unchecked=unchecked)

    def fault(some: Sequence[Group]) -> str:
        try:
            attempt(some)
        except NotTheSame as failed:
            return f"has units whose norm is zero, but what is without them gives {failed.got}"
        return ""

    passed, spared = largest_passing(more, fault, lambda group: group.name)
    return replace(attempt(passed), spared=spared)


def _decided(
    groups: Sequence[Group], tensors: Mapping[str, Tensor], silenced: Mapping[str, Tensor]
) -> _Choice:
    decisions = {g.name: units_to_keep(g, tensors, silenced.get(g.name)) for g in groups}
    kept = {name: alive for name, (alive, _) in decisions.items()}
    rounded = {name: spared for name, (_, spared) in decisions.items() if spared}
    return _Choice(kept, rounded, positions(groups, kept, {n: t.shape for n, t in tensors.items()}))


def _why_whole(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> str:
    count = half_zero(groups, tensors)
    but = (
        f" ({count} have zero weights or scales, but a bias or shift that is not zero)"
        if count
        else ""
    )
    return (
        f"in none of {len(groups)} groups is a channel zero in all layers that it is coupled "
        f"with{but}; prune with structure channel and "
        "sparsify(..., groups=steppe.channel_groups(model, inputs)) first"
    )


def _masked(model: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """All tensors of a model, weights under their masks."""
    tensors = {
        name: tensor.detach()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    for name, mask in (masks or {}).items():
        if name not in tensors or tensors[name].shape != mask.shape:
            raise SteppeError(
                "a mask must have the name and the shape of a parameter",
                got=f"{name}: {tuple(mask.shape)}",
                way_out="take the masks of this model",
            )
        tensors[name] = tensors[name] * mask.to(tensors[name].device)
    return tensors


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.data_ptr() != tensors[name].data_ptr():
                parameter.copy_(tensors[name])


def _verify(before: nn.Module, after: nn.Module, example_inputs: Any) -> tuple[float, str]:
    """The largest difference of the outputs, relative to the largest, in both modes.

    Returns:
        It, and why training mode was not compared; "" if it was.
    """
    error = 0.0
    for training in (False, True):
        mode = " in training mode" if training else ""
        try:
            error = max(error, largest_difference(before, after, example_inputs, training))
        except Difference as difference:
            if training and difference.ran and not is_steady(before, example_inputs, True):
                return error, "its outputs differ from run to run"
            raise _not_the_same(difference, mode) from difference
        except SteppeError as refused:
            if not training:
                raise
            return error, str(refused.got)
    return error, ""


def _not_the_same(difference: Difference, mode: str) -> NotTheSame:
    if difference.ran:
        return NotTheSame(
            f"a network must compute the same{mode} after its zero units are gone",
            got=str(difference),
            consequence="nothing was changed",
            way_out="after an activation that is not 0 at 0, the weights that read a unit must be "
            "zero too; where forward() does what cannot be traced, exclude the layers there",
        )
    return NotTheSame(
        f"a network must run{mode} after its zero units are gone",
        got=str(difference),
        consequence="nothing was changed",
        way_out="where forward() has a size of channels written in it, let it read x.shape, or "
        "exclude the layers there",
    )
