"""Views: dimensions that are merged, split, moved, added or dropped."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from torch import Tensor

from steppe.removal.channel_labels import Labels
from steppe.removal.propagation.state import Arguments, Dims, LabelPropagation, rule


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def reshape(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Dimensions are merged or split; afterwards a channel may own several positions."""
    x = args[0]
    dims: Dims = []
    for ins, outs in _matched_dims(list(x.shape), list(out.shape)):
        sizes = [x.shape[i] for i in ins]
        flat = _merged(state, [state.labels(x)[i] for i in ins], sizes)
        dims += _split(state, flat, [out.shape[i] for i in outs])
    state.assign(out, dims)


def _matched_dims(a: list[int], b: list[int]) -> list[tuple[list[int], list[int]]]:
    """Runs of dimensions of both shapes that hold the same number of elements."""
    runs, i, j = [], 0, 0
    while i < len(a) or j < len(b):
        ins, outs = ([i] if i < len(a) else []), ([j] if j < len(b) else [])
        i, j = i + len(ins), j + len(outs)
        while (left := prod(a[k] for k in ins)) != (right := prod(b[k] for k in outs)):
            if left < right:
                ins, i = [*ins, i], i + 1
            else:
                outs, j = [*outs, j], j + 1
        runs.append((ins, outs))
    return runs


def _merged(state: LabelPropagation, dims: Dims, sizes: list[int]) -> Labels | None:
    labelled = [i for i, labels in enumerate(dims) if labels is not None]
    if len(labelled) > 1:
        for i in labelled:
            state.fix(dims[i], "is reshaped together with other channels")
        return None
    if not labelled:
        return None
    labels = dims[labelled[0]]
    assert labels is not None
    shape = [1] * len(sizes)
    shape[labelled[0]] = -1
    return np.broadcast_to(labels.reshape(shape), sizes).reshape(-1)


def _split(state: LabelPropagation, flat: Labels | None, sizes: list[int]) -> Dims:
    dims: Dims = [None] * len(sizes)
    if flat is None:
        return dims
    table = flat.reshape(sizes)
    for dim in range(len(sizes)):
        first = np.moveaxis(table, dim, 0).reshape(sizes[dim], -1)
        if sizes[dim] > 1 and (first == first[:, :1]).all():
            dims[dim] = first[:, 0].copy()
            return dims
    state.fix(flat, "is split into several dimensions")
    return dims


def permutation(state: LabelPropagation, name: str, args: Arguments, out: Tensor) -> None:
    """Dimensions are reordered, added or dropped."""
    x = args[0]
    dims = list(state.labels(x))
    if name in ("t", "numpy_T"):
        dims = dims[::-1]
    elif name == "permute":
        dims = [dims[d] for d in args[1]]
    elif name == "transpose":
        a, b = args[1], args[2]
        dims[a], dims[b] = dims[b], dims[a]
    elif name.startswith("unsqueeze"):
        dims.insert(args[1] % (len(dims) + 1), None)
    elif name.startswith("squeeze") and x is out:  # in place: what it was is gone
        for labels in dims:
            state.fix(labels, "is squeezed in place")
        dims = [None] * out.ndim
    elif name.startswith("squeeze"):
        given = args[1] if len(args) > 1 else range(x.ndim)
        chosen = {given % x.ndim} if isinstance(given, int) else {d % x.ndim for d in given}
        sizes = list(x.shape)
        dims = [d for i, d in enumerate(dims) if not (i in chosen and sizes[i] == 1)]
    elif name in ("expand", "broadcast_to"):
        dims = [*[None] * (out.ndim - x.ndim), *dims]
    state.assign(out, dims)
