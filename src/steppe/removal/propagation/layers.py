"""Products, convolutions, norms and embeddings."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from steppe.removal.channel_labels import Labels
from steppe.removal.propagation.state import Arguments, LabelPropagation, first_of, rule


@rule("convolution", "_convolution", "convolution_overrideable")
def convolution(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Couple the weight's inputs with the input's channels; the number of groups stays."""
    x, weight, bias = args[:3]
    transposed, groups = args.named["transposed"], args.named["groups"]
    rows, columns = (1, 0) if transposed else (0, 1)
    w, in_channels = state.labels(weight), state.labels(x)[1]
    out_channels = w[rows]
    for labels in state.labels(x)[2:]:
        state.fix(labels, "lies along the space of a convolution")
    if groups > 1 and transposed:
        out_channels = _transposed_in_groups(state, weight, in_channels, groups)
    elif groups > 1 and weight.shape[columns] == 1:  # depthwise: coupled with its producer
        times = weight.shape[rows] // groups
        repeated = None if in_channels is None else np.repeat(in_channels, times)
        state.couple(out_channels, repeated)
    elif groups > 1:
        # couple the same position of all groups, so that the groups stay equally large
        columns_of_all = w[columns]
        if columns_of_all is not None:
            columns_of_all = np.tile(columns_of_all, groups)
        state.contract(columns_of_all, in_channels)
        state.couple_rows(in_channels, groups)
        state.couple_rows(out_channels, groups)
    else:
        state.contract(w[columns], in_channels)
    if bias is not None:
        state.couple(state.labels(bias)[0], out_channels)
    state.assign(out, [state.labels(x)[0], out_channels, *[None] * (out.ndim - 2)])


def _transposed_in_groups(
    state: LabelPropagation, weight: Tensor, in_channels: Labels | None, groups: int
) -> Labels | None:
    """Depthwise: a channel goes with its filter. Else the groups are written in the weight."""
    first, second = state.labels(weight)[:2]
    if weight.shape[:2] == (groups, 1):
        return state.couple(first, in_channels)
    for labels in (first, second, in_channels):
        state.fix(labels, "belongs to a transposed convolution in groups")
    return None


@rule("mm", "addmm", "mv", "bmm", "baddbmm", "addmv", "dot")
def product(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """The inner dimensions are summed over; the outer ones keep their labels."""
    *bias, a, b = [t for t in args if isinstance(t, Tensor)]
    left, right = state.labels(a), state.labels(b)
    first, last = left[:-1], right[max(len(right) - 1, 1) :]
    if not state.is_fresh(a) and not state.is_fresh(b):
        state.contract(left[-1], right[max(len(right) - 2, 0)])
    if out.ndim == 3:
        first[0] = state.couple(first[0], right[0])
    dims = [*first, *last]
    for extra in bias:
        for back, labels in enumerate(reversed(state.labels(extra)), 1):
            if extra.shape[-back] > 1:
                dims[-back] = state.couple(labels, dims[-back])
    state.assign(out, dims)


@rule("linear")
def linear(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A linear layer where it is one operation."""
    x, weight, bias = args[:3]
    rows, columns = state.labels(weight)
    state.contract(columns, state.labels(x)[-1])
    if bias is not None:
        rows = state.couple(rows, state.labels(bias)[0])
    state.assign(out, [*state.labels(x)[:-1], rows])


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
@rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update", "batch_norm_with_update")
@rule("_batch_norm_with_update", "native_batch_norm_legit_functional")
def batch_norm(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Couple scale, shift and running statistics with the channels."""
    dims = list(state.labels(args[0]))
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor) and tensor.shape[0] > 1:
            dims[1] = state.couple(dims[1], state.labels(tensor)[0])
    for dim, labels in enumerate(dims):
        if dim != 1 and args.named.get("training", True):
            state.fix(labels, "is averaged over")
    state.assign(first_of(out), dims)


@rule("native_layer_norm", "native_group_norm", "_fused_rms_norm")
def mixing_norm(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A norm over channels fixes them: removing some would change its statistics."""
    x = args[0]
    dims = list(state.labels(x))
    over = range(1, x.ndim)
    if isinstance(args[1], list | tuple):
        over = range(x.ndim - len(args[1]), x.ndim)
    for dim in over:
        state.fix(dims[dim], "goes through a norm that mixes channels")
    for tensor in args[1:]:
        for labels in state.labels(tensor) if isinstance(tensor, Tensor) else ():
            state.fix(labels, "belongs to a norm that mixes channels")
    state.assign(first_of(out), dims)


@rule("embedding")
def embedding(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Rows are looked up; columns are channels."""
    state.assign(out, [*[None] * (out.ndim - 1), state.labels(args[0])[1]])


@rule("_embedding_bag", "_embedding_bag_forward_only")
def embedding_bag(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """As `embedding`, summed over bags."""
    state.assign(out[0], [None, state.labels(args[0])[1]])
