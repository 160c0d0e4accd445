"""What a module was called with."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

Call = tuple[tuple[Any, ...], Mapping[str, Any]]
"""The arguments of a call, by place and by name."""


def argument(call: Call, place: int, name: str) -> Any:
    """What a module was given, by place or by name."""
    args, kwargs = call
    return args[place] if len(args) > place else kwargs.get(name)


def mean_square(x: Any) -> Tensor:
    """The mean of squares over everything but the last dimension."""
    values: Tensor = x.data if isinstance(x, PackedSequence) else x
    values = values.detach().float()
    return values.reshape(-1, values.shape[-1]).square().mean(0)
