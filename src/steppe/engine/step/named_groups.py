"""Parameter groups of an optimiser that was made from named parameters, and keeps their names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor
from torch.optim import Optimizer

_NAMES = "param_names"


def names_of(groups: Iterable[Mapping[str, Any]]) -> dict[int, str]:
    """``id(parameter)`` -> the name that its optimiser has for it; empty where there are none.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(2, 2)
        >>> optimizer = torch.optim.SGD(model.named_parameters(), lr=0.1)
        >>> sorted(names_of(optimizer.param_groups).values())
        ['bias', 'weight']
    """
    return {
        id(p): name
        for group in groups
        for p, name in zip(group["params"], group.get(_NAMES, ()), strict=False)
    }


def fill(group: dict[str, Any], params: Sequence[Tensor], names: Mapping[int, str]) -> None:
    """Give a group these parameters, with their names if it has names."""
    group["params"] = list(params)
    if _NAMES in group:
        group[_NAMES] = [names[id(p)] for p in params]


def add_like(
    optimizer: Optimizer,
    group: Mapping[str, Any],
    options: Mapping[str, Any],
    params: Sequence[Tensor],
    names: Mapping[int, str],
) -> None:
    """Add a group like another one.

    Args:
        optimizer: of both.
        group: the other one.
        options: in which the new one differs.
        params: of the new one.
        names: of theirs, where the other one has names.
    """
    usual = {key: value for key, value in group.items() if key not in ("params", _NAMES)}
    given = [(names[id(p)], p) for p in params] if _NAMES in group else list(params)
    optimizer.add_param_group({**usual, **options, "params": given})
