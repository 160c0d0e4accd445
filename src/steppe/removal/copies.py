"""Copies of a model that share what is not changed."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.removal.forward import kept_tensors, said


class CannotCopy(SteppeError):
    """A model holds something that cannot be copied."""


def copy_of(
    model: nn.Module,
    dtype: torch.dtype | None = None,
    changed: Mapping[str, Tensor] | None = None,
    share: bool = True,
) -> nn.Module:
    """A copy with modules of its own, which shares the memory of weights that stay as they are.

    Args:
        model: any module.
        dtype: of the copy's real tensors; as they are if None.
        changed: name -> what a parameter or buffer is in the copy.
        share: otherwise nothing is shared.

    Returns:
        The copy. Buffers are its own; a weight that is shared must not be written to.

    Raises:
        CannotCopy: the model holds something that cannot be copied.
    """
    memo: dict[int, Any] = {}
    new = changed or {}
    for name, parameter in model.named_parameters():
        value = _as_dtype(new.get(name, parameter).detach(), dtype)
        own = value.data_ptr() != parameter.data_ptr()
        if own:
            memo[id(parameter)] = nn.Parameter(value, parameter.requires_grad)
        elif share:
            memo[id(parameter)] = parameter
    for name, buffer in model.named_buffers():
        memo[id(buffer)] = _as_dtype(new.get(name, buffer).detach(), dtype).clone()
    own_ids = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
    for _, tensor in kept_tensors(model):
        # e.g. the weight that a hook computes; torch copies no tensor with a history
        if id(tensor) not in own_ids:
            memo[id(tensor)] = tensor.detach().clone()
    try:
        return deepcopy(model, memo)
    except Exception as error:  # e.g. a lock, a file, a tensor with a history in some object
        raise CannotCopy(
            "channels are tried and compared on a copy of the model",
            got=f"{type(model).__name__}, which cannot be copied ({said(error)})",
            way_out="give its odd attribute a __deepcopy__; or remove(..., inplace=True, "
            "verify=False), which copies nothing",
        ) from error


def _as_dtype(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    if dtype is None or not (tensor.is_floating_point() or tensor.is_complex()):
        return tensor
    if tensor.is_complex():
        return tensor.to(torch.complex128 if dtype == torch.float64 else torch.complex64)
    return tensor.to(dtype)
