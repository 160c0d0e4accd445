"""Propagation of channel labels through the traced operations of torch, one rule for each."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor

from steppe.removal.propagation import layers, pointwise, positions  # noqa: F401  their rules
from steppe.removal.propagation.along import pooling
from steppe.removal.propagation.state import RULES, Arguments, LabelPropagation
from steppe.removal.propagation.views import permutation

_SPATIAL = re.compile(r"(pool|upsample|pad).*([123])d")
_MOVES = ("t", "permute", "transpose", "transpose_", "t_", "expand", "numpy_T")
_UNLABELLED = (bool, int, float, complex, type(None))


def propagate(state: LabelPropagation, operation: Any, args: Arguments, out: Any) -> bool:
    """Propagate the labels of an operation's arguments to its results.

    Args:
        state: the labels so far.
        operation: of aten, e.g. ``torch.ops.aten.relu.default``.
        args: all its arguments.
        out: what it returned.

    Returns:
        Whether the operation is known; one of another library never is.
    """
    if operation.namespace != "aten":
        return False
    if isinstance(out, _UNLABELLED):  # it asked for a size or a value
        return True
    name = operation.overloadpacket.__name__
    spatial = _SPATIAL.search(name)
    if spatial and "unpool" not in name:
        pooling(state, args, out, int(spatial.group(2)))
    elif name in _MOVES or "squeeze" in name:
        permutation(state, name.rstrip("_"), args, out)
    elif name in RULES:
        RULES[name](state, args, out)
    elif torch.Tag.pointwise in operation.tags and isinstance(out, Tensor):
        RULES["clone"](state, args, out)
    else:
        return False
    return True
