"""Coupled channels of a recipe's network: what they cost, and the network without them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.cost import Cost, Units
from steppe.core.cost_target import meet_cost
from steppe.core.errors import SteppeError, unknown
from steppe.core.group import Group
from steppe.engine.model_latency import compare
from steppe.experiment.latency_command import USUAL, command_of
from steppe.experiment.recipe import Recipe
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.cost import COSTS
from steppe.removal.dependency_graph import nothing_free
from steppe.removal.forward_timing import layout_of
from steppe.removal.latency_table import with_batch
from steppe.removal.remove import Removed, remove

COUNTS = "channels"


@dataclass(frozen=True)
class Channels:
    """What a method may prune in a network, and what it counts.

    Args:
        groups: the coupled channels.
        cost: what the sparsity counts.
        left_out: weight -> why its channels must stay.
        round_to: what widths are multiples of.
    """

    groups: list[Group]
    cost: Cost
    left_out: dict[str, str]
    round_to: int = 1

    def notes(self) -> list[str]:
        """What to say of weights that keep all channels, though they are not the last ones."""
        inside = {s.name for group in self.groups for s in group.slices if s.role == "output"}
        kept = {
            name: reason
            for name, reason in self.left_out.items()
            if name not in inside and "output" not in reason
        }
        if not kept:
            return []
        name, reason = next(iter(kept.items()))
        return [
            f"{len(kept)} of the weights keep all of their channels, such as {name}, which "
            f"{reason}; left_out in record.json says why for each"
        ]


def channels_of(
    recipe: Recipe, model: nn.Module, example: Tensor, classes: int | None = None
) -> Channels | None:
    """The coupled channels of a recipe's network; None where its method prunes no channels.

    Args:
        recipe: with a method and ``channels``.
        model: in any mode; left as it is.
        example: one batch of inputs.
        classes: of the data; None where they are not known.

    Raises:
        SteppeError: an unknown target, a latency without a table, a network that cannot be
            followed.
    """
    method, spec = recipe.build_method(), recipe.channels
    if not method.structure.whole_outputs or method.sparsity == 0:
        return None
    if spec.target != COUNTS and spec.target not in COSTS:
        raise unknown("target of channels", spec.target, [COUNTS, *COSTS])
    coupled = coupled_channels(model, example, exclude=recipe.exclude)
    if not coupled.groups:
        raise nothing_free(model, coupled.left_out)
    given = {"table": spec.table, "batch": spec.batch}
    options: dict[str, Any] = {key: value for key, value in given.items() if value is not None}
    if spec.target == "latency":
        last = layout_of(model) is torch.channels_last
        command = command_of(recipe, tuple(example.shape[1:]), classes)
        options["command"] = replace(command, channels_last=last)
    # a table holds the widths that steppe latency measures, multiples of 8 if not told otherwise
    usual = (USUAL,) if spec.target == "latency" else (8, 4, 2, 1)
    tried = usual if spec.round_to is None else (spec.round_to,)
    for size in tried:
        groups = rounded(coupled.groups, size)
        cost: Cost = Units(groups)
        if spec.target != COUNTS:
            cost = COSTS[spec.target].of(model, example, groups, **options)
        if size == tried[-1] or _meets(model, groups, cost, method.sparsity):
            return Channels(groups, cost, coupled.left_out, size)
    raise AssertionError("the last one is always taken")


def rounded(groups: Sequence[Group], size: int) -> list[Group]:
    """Groups whose widths are multiples, where there are at least twice as many units."""
    return [
        replace(g, multiple=max(g.multiple, size)) if g.units >= 2 * size else g for g in groups
    ]


def _meets(model: nn.Module, groups: Sequence[Group], cost: Cost, sparsity: float) -> bool:
    """Whether the least channels of the weights as they are come to the target."""
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    units = {g.name: g.members(tensors).norm(dim=1) for g in groups}
    allowed = (1.0 - sparsity) * cost.total({}) * (1.0 + 1e-9)
    try:
        kept = meet_cost(units, groups, cost, allowed)
    except SteppeError:
        return False
    left = cost.total({name: int(mask.sum()) for name, mask in kept.items()})
    return left >= (1.0 - cost.tolerance) * allowed


def slim(model: nn.Module, example: Tensor, channels: Channels) -> Removed:
    """The network without the channels that are zero.

    Args:
        model: with zeros; stays as it is.
        example: one batch of inputs.
        channels: of the network.
    """
    # every zero channel goes: one group may have ended at a width that is no multiple
    return remove(model, example, groups=[replace(g, multiple=1) for g in channels.groups])


def gains(
    model: nn.Module, done: Removed, example: Tensor, channels: Channels, many: bool = True
) -> dict[str, Any]:
    """What the removal gained, measured here.

    Args:
        model: before the removal.
        done: what `slim` gave.
        example: one batch of inputs.
        channels: of the network.
        many: time a batch of 64 too.

    Returns:
        Plain values before and after: parameters, multiply-adds of one input, milliseconds of one
        input and of 64 with what they allow to claim; how many channels go, and widths.
    """
    flops = COSTS["flops"].of(model, example, channels.groups)
    removed = done.report["removed"]
    kept = {g.name: g.units - removed.get(g.name, 0) for g in channels.groups}
    gone = sum(removed.values())
    reason = f"{gone:,} channel{'s are' if gone > 1 else ' is'} removed" if gone else ""
    one = compare(model, done.model, example[:1], reason)
    latencies: dict[str, Any] = {"latency_ms": [one.dense_ms, one.sparse_ms]}
    speed = {"one": one.record()}
    if many:
        wide = with_batch(example, 64, layout_of(model))
        batch = compare(model, done.model, wide, reason)
        latencies["latency_ms_64"] = [batch.dense_ms, batch.sparse_ms]
        speed["many"] = batch.record()
    return {
        "channels": gone,
        "parameters": list(done.report["parameters"]),
        "flops": [flops.total({}), flops.total(kept)],
        **latencies,
        "speed": speed,
        "threads": torch.get_num_threads(),
        "widths": kept,
        "error": done.report["error"],
    }
