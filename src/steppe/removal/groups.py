"""The groups of any model: by names for transformers, by running it once for all others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.attention import transformer_groups
from steppe.removal.graph import Found, found, matched
from steppe.removal.patterns import parts_of


def groups_of(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
) -> list[Group]:
    """The groups of coupled channels, heads and neurons of a model.

    Args:
        model: a transformer whose modules are known by name, or any other network.
        example_inputs: one batch; only other networks need it. See `channel_groups`.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        Groups that never overlap.

    Raises:
        SteppeError: nothing can be found, see `channel_groups` and `transformer_groups`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [g.units for g in groups_of(net, torch.zeros(1, 3))]
        [4]
    """
    return all_of(model, example_inputs, exclude=exclude, round_to=round_to).groups


def all_of(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
) -> Found:
    """As `groups_of`, with the reasons why other channels of a network that was run must stay."""
    model = unwrap(model)
    by_name = example_inputs is None and any(parts_of(model, matched(model, exclude)))
    if by_name or is_transformer(model, exclude):
        groups = transformer_groups(model, exclude=exclude, round_to=round_to)
        if not groups:
            raise SteppeError(
                "some heads or neurons must be free to go",
                got=f"{type(model).__name__} with everything excluded or tied",
                way_out="exclude fewer modules",
            )
        return Found(groups, {})
    if example_inputs is None:
        raise SteppeError(
            "a network that is no known transformer is run once to find its groups",
            got=f"{type(model).__name__} without example_inputs",
            way_out="give one batch, e.g. example_inputs=torch.zeros(1, 3, 32, 32), and exclude "
            "its attention, if any",
        )
    return found(model, example_inputs, exclude=exclude, round_to=round_to)


def is_transformer(model: nn.Module, exclude: Sequence[str] = ()) -> bool:
    """Whether attention with heads is found by name in a model."""
    model = unwrap(model)
    return any(part.kind == "head" for part in parts_of(model, matched(model, exclude)))
