"""What the weights of a convolution are multiplied with, as rows of a matrix."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

CONVOLUTIONS = {torch.conv1d: 1, torch.conv2d: 2}
"""Function -> dimensions of its kernel."""
_NAMES = ("input", "weight", "bias", "stride", "padding", "dilation", "groups")
_USUAL = {"bias": None, "stride": 1, "padding": 0, "dilation": 1, "groups": 1}


def bound(args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of a convolution by their names."""
    return _USUAL | dict(zip(_NAMES, args, strict=False)) | dict(kwargs)


@torch.no_grad()
def unfolded(call: Mapping[str, Any], dimensions: int) -> Tensor:
    """The inputs of each output, ``[groups * places, inputs of a group * kernel]``.

    Group after group; y[place, row] = sum over columns of x[group of row, place] W[row].

    Args:
        call: arguments of the convolution by their names.
        dimensions: of its kernel.

    Example:
        >>> call = bound((torch.arange(4.0).view(1, 1, 4), torch.ones(1, 1, 3)), {})
        >>> unfolded(call, 1)
        tensor([[0., 1., 2.],
                [1., 2., 3.]])
    """
    x, weight, groups = call["input"], call["weight"], int(call["groups"])
    x = x if x.ndim == dimensions + 2 else x[None]
    kernel = list(weight.shape[2:])
    stride, dilation = (_each(call[key], dimensions) for key in ("stride", "dilation"))
    padding = call["padding"]
    if isinstance(padding, str):
        wanted = [
            d * (k - 1) if padding == "same" else 0 for d, k in zip(dilation, kernel, strict=True)
        ]
        # of an odd number the larger half comes after
        x = F.pad(x, [side for w in reversed(wanted) for side in (w // 2, w - w // 2)])
        padding = 0
    padding = _each(padding, dimensions)
    if dimensions == 1:  # torch unfolds images
        x, kernel = x.unsqueeze(2), [1, *kernel]
        stride, dilation, padding = [1, *stride], [1, *dilation], [0, *padding]
    columns = F.unfold(x, tuple(kernel), tuple(dilation), tuple(padding), tuple(stride))
    apart: Tensor = columns.unflatten(1, (groups, -1))  # [batch, groups, columns, places]
    return apart.permute(1, 0, 3, 2).reshape(-1, apart.shape[2])


def _each(value: Any, dimensions: int) -> list[int]:
    values = [value] if isinstance(value, int) else list(value)
    return values * dimensions if len(values) == 1 else values
