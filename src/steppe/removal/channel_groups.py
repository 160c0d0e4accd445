"""The groups of coupled channels of any model.

Known transformers are recognised by the names of their modules; every other network is traced.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.dependency_graph import CoupledChannels, excluded_names, trace_channels
from steppe.removal.transformer_groups import transformer_groups
from steppe.removal.transformer_patterns import sublayers_of


def channel_groups(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
) -> list[Group]:
    """The groups of coupled channels, heads and neurons of a model.

    Args:
        model: a transformer whose modules are known by name, or any other network.
        example_inputs: one batch; only other networks need it. See `traced_groups`.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        Groups that never overlap.

    Raises:
        SteppeError: there are no groups, see `traced_groups` and `transformer_groups`.

    Example:
        >>> import torch
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> [g.units for g in channel_groups(net, torch.zeros(1, 3))]
        [4]
    """
    return coupled_channels(model, example_inputs, exclude=exclude, round_to=round_to).groups


def coupled_channels(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    exclude: Sequence[str] = (),
    round_to: int = 1,
) -> CoupledChannels:
    """As `channel_groups`, with the reasons why other channels of a traced network must stay."""
    model = unwrap(model)
    by_name = example_inputs is None and any(sublayers_of(model, excluded_names(model, exclude)))
    if by_name or is_transformer(model, exclude):
        groups = transformer_groups(model, exclude=exclude, round_to=round_to)
        if not groups:
            raise SteppeError(
                "some heads or neurons must be free to go",
                got=f"{type(model).__name__} with everything excluded or tied",
                way_out="exclude fewer modules",
            )
        return CoupledChannels(groups, {})
    if example_inputs is None:
        raise SteppeError(
            "a network that is no known transformer is run once to find its groups",
            got=f"{type(model).__name__} without example_inputs",
            way_out="give one batch, e.g. example_inputs=torch.zeros(1, 3, 32, 32), and exclude "
            "its attention, if any",
        )
    return trace_channels(model, example_inputs, exclude=exclude, round_to=round_to)


def is_transformer(model: nn.Module, exclude: Sequence[str] = ()) -> bool:
    """Whether a model has attention heads that are recognised by their modules' names."""
    model = unwrap(model)
    sublayers = sublayers_of(model, excluded_names(model, exclude))
    return any(sublayer.kind == "head" for sublayer in sublayers)
