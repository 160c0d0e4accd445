"""Propagation of channel labels through the traced operations of torch, one rule for each."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.removal.channel_labels import FIXED, PADDING, ChannelLabels, Labels

Dims = list[Labels | None]


class LabelPropagation:
    """The labels of the activations of a running model.

    Args:
        channels: the labels of the model's own tensors; couplings are added to it.
    """

    def __init__(self, channels: ChannelLabels) -> None:
        self.channels = channels
        self._activations: dict[int, tuple[Tensor, Dims]] = {}
        """id -> tensor and labels; keeping the tensor prevents that its id is used again."""
        self.where = ""
        """The module that runs, as words for a reason."""
        self.shortcut: tuple[int, int] | None = None
        """Zeros that the running module puts around channels, if surgery can set how many."""

    def labels(self, tensor: Tensor) -> Dims:
        """The labels of a tensor's dimensions."""
        if id(tensor) in self._activations:
            return self._activations[id(tensor)][1]
        known = self.channels.of_tensor.get(id(tensor))
        return [None] * tensor.ndim if known is None else known

    def assign(self, tensor: Tensor, dims: Dims) -> None:
        """Give a new tensor its labels."""
        assert len(dims) == tensor.ndim, (len(dims), tensor.shape)
        self._activations[id(tensor)] = (tensor, dims)

    def couple(self, a: Labels | None, b: Labels | None) -> Labels | None:
        """Couple two aligned dimensions; the labels of the result."""
        return None if a is None and b is None else self.channels.couple(a, b, self.where)

    def contract(self, a: Labels | None, b: Labels | None) -> None:
        """Couple two dimensions that are multiplied and summed over."""
        if a is not None or b is not None:
            self.channels.contract(a, b, self.where)

    def fix(self, labels: Labels | None, reason: str) -> None:
        """These channels must stay."""
        self.channels.fix(labels, reason + self.where)


Rule = Callable[[LabelPropagation, Sequence[Any], Any], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register a function as the propagation rule of the operations ``aten.<name>``."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "hardswish", "hardswish_")
@rule("_prelu_kernel", "threshold", "zeros_like", "ones_like", "full_like", "empty_like", "where")
def pointwise(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Couple aligned dimensions, counted from the last as in broadcasting."""
    out = out[0] if isinstance(out, tuple) else out
    tensors = [a for a in args if isinstance(a, Tensor)]
    dims: Dims = []
    for back in range(out.ndim, 0, -1):
        wide = [t for t in tensors if t.ndim >= back and t.shape[-back] > 1]
        coupled = state.labels(wide[0])[-back] if wide else None
        for tensor in wide[1:]:
            coupled = state.couple(coupled, state.labels(tensor)[-back])
        dims.append(coupled)
    state.assign(out, dims)


@rule("convolution")
def convolution(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Couple the weight's inputs with the input's channels; the number of groups stays."""
    x, weight, bias, *_, transposed, _, groups = args
    rows, columns = (1, 0) if transposed else (0, 1)
    w, in_channels = state.labels(weight), state.labels(x)[1]
    out_channels = w[rows]
    if groups > 1 and transposed:
        for labels in (out_channels, w[columns], in_channels):
            state.fix(labels, "belongs to a transposed convolution in groups")
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
        _couple_groups(state, in_channels, groups)
        _couple_groups(state, out_channels, groups)
    else:
        state.contract(w[columns], in_channels)
    if bias is not None:
        state.couple(state.labels(bias)[0], out_channels)
    state.assign(out, [state.labels(x)[0], out_channels, *[None] * (out.ndim - 2)])


def _couple_groups(state: LabelPropagation, labels: Labels | None, groups: int) -> None:
    if labels is not None:
        table = labels.reshape(groups, -1)
        for row in table[1:]:
            state.couple(table[0], row)


@rule("mm", "addmm", "mv", "bmm", "baddbmm", "addmv", "dot")
def product(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """The inner dimensions are summed over; the outer ones keep their labels."""
    *bias, a, b = [t for t in args if isinstance(t, Tensor)]
    left, right = state.labels(a), state.labels(b)
    first, last = left[:-1], right[max(len(right) - 1, 1) :]
    state.contract(left[-1], right[max(len(right) - 2, 0)])
    if out.ndim == 3:
        first[0] = state.couple(first[0], right[0])
    dims = [*first, *last]
    for extra in bias:
        for back, labels in enumerate(reversed(state.labels(extra)), 1):
            if extra.shape[-back] > 1:
                dims[-back] = state.couple(labels, dims[-back])
    state.assign(out, dims)


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
@rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update")
def batch_norm(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Couple scale, shift and running statistics with the channels."""
    dims = list(state.labels(args[0]))
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor) and tensor.shape[0] > 1:
            dims[1] = state.couple(dims[1], state.labels(tensor)[0])
    state.assign(out[0], dims)


@rule("native_layer_norm", "native_group_norm")
def mixing_norm(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """A norm over channels fixes them: removing some would change its statistics."""
    x = args[0]
    dims = list(state.labels(x))
    over = range(x.ndim - len(args[1]), x.ndim) if isinstance(args[1], list | tuple) else [1]
    for dim in over:
        state.fix(dims[dim], "goes through a norm that mixes channels")
    for tensor in args[1:]:
        for labels in state.labels(tensor) if isinstance(tensor, Tensor) else ():
            state.fix(labels, "belongs to a norm that mixes channels")
    state.assign(out[0], dims)


@rule("_softmax", "_log_softmax", "cumsum", "flip")
def mixing(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """An operation that mixes the positions of one dimension fixes its channels."""
    dims = list(state.labels(args[0]))
    chosen = args[1] if isinstance(args[1], int) else args[1][0]
    state.fix(dims[chosen], "goes through an operation that mixes channels")
    out = out[0] if isinstance(out, tuple) else out
    state.assign(out, dims)


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "linalg_vector_norm", "norm")
def reduction(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Channels that are summed over are fixed."""
    x, dims = args[0], list(state.labels(args[0]))
    given = next((a for a in args[1:] if isinstance(a, list | tuple)), range(x.ndim))
    reduced = {d % x.ndim for d in given} or set(range(x.ndim))
    for dim in reduced:
        state.fix(dims[dim], "is summed over")
    for result in out if isinstance(out, tuple) else (out,):
        keepdim = result.ndim == x.ndim
        kept = [d for d in range(x.ndim) if keepdim or d not in reduced]
        state.assign(result, [None if d in reduced else dims[d] for d in kept])


def pooling(state: LabelPropagation, args: Sequence[Any], out: Any, spatial: int) -> None:
    """Spatial sizes change, channels stay."""
    dims = list(state.labels(args[0]))
    for dim in range(len(dims) - spatial, len(dims)):
        state.fix(dims[dim], "is pooled over")
        dims[dim] = None
    for result in out if isinstance(out, tuple) else (out,):
        state.assign(result, list(dims))


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def reshape(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
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


def permutation(state: LabelPropagation, name: str, args: Sequence[Any], out: Tensor) -> None:
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
        dims.insert(args[1] % (x.ndim + 1), None)
    elif name.startswith("squeeze"):
        given = args[1] if len(args) > 1 else range(x.ndim)
        chosen = {given % x.ndim} if isinstance(given, int) else {d % x.ndim for d in given}
        sizes = list(x.shape)
        dims = [d for i, d in enumerate(dims) if not (i in chosen and sizes[i] == 1)]
    elif name == "expand":
        dims = [*[None] * (out.ndim - x.ndim), *dims]
    state.assign(out, dims)


@rule("cat")
def concatenation(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Labels are concatenated along one dimension; the others are coupled."""
    tensors = [t for t in args[0] if t.ndim == out.ndim]
    dim = (args[1] if len(args) > 1 else 0) % out.ndim
    dims: Dims = []
    for d in range(out.ndim):
        labels = [state.labels(t)[d] for t in tensors]
        if d != dim:
            coupled = labels[0]
            for other in labels[1:]:
                coupled = state.couple(coupled, other)
            dims.append(coupled)
        elif all(own is None for own in labels):
            dims.append(None)
        else:
            fixed = [np.full(t.shape[d], FIXED, dtype=np.int64) for t in tensors]
            pairs = zip(fixed, labels, strict=True)
            dims.append(np.concatenate([f if own is None else own for f, own in pairs]))
    state.assign(out, dims)


@rule("split", "split_with_sizes", "chunk", "unbind", "slice", "select", "narrow", "index_select")
def indexing(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """The positions that are taken are written in the model's code: channels are fixed."""
    x, dims = args[0], list(state.labels(args[0]))
    outs = out if isinstance(out, list | tuple) else [out]
    if outs[0].ndim < x.ndim:  # select, unbind: the dimension itself is dropped
        chosen = next((a for a in args[1:] if isinstance(a, int)), 0)
        state.fix(dims.pop(chosen % x.ndim), "is taken apart by position")
    else:
        for dim in range(x.ndim):
            if any(result.shape[dim] != x.shape[dim] for result in outs):
                state.fix(dims[dim], "is taken apart by position")
                dims[dim] = None
    for result in outs:
        state.assign(result, list(dims))


@rule("constant_pad_nd")
def padding(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Padded zeros are fixed, except in the shortcuts whose padding surgery can set."""
    x, pads = args[0], args[1]
    dims = list(state.labels(x))
    for i in range(len(pads) // 2):
        front, back, labels = pads[2 * i], pads[2 * i + 1], dims[x.ndim - 1 - i]
        if labels is not None and (front or back):
            if min(front, back) < 0:
                state.fix(labels, "is taken apart by position")
                dims[x.ndim - 1 - i] = None
                continue
            zeros = PADDING if state.shortcut == (front, back) else FIXED
            dims[x.ndim - 1 - i] = np.pad(labels, (front, back), constant_values=zeros)
    state.assign(out, dims)


@rule("new_zeros", "new_ones", "new_full", "new_empty")
def new(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """A new tensor without labels: channels that it is combined with are fixed."""
    state.assign(out, [None] * out.ndim)


@rule("repeat")
def repetition(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Labels are repeated like the tensor."""
    x, times = args
    dims = [*[None] * (out.ndim - x.ndim), *state.labels(x)]
    pairs = zip(dims, times, strict=True)
    state.assign(out, [None if own is None else np.tile(own, count) for own, count in pairs])


@rule("embedding")
def embedding(state: LabelPropagation, args: Sequence[Any], out: Any) -> None:
    """Rows are looked up; columns are channels."""
    state.assign(out, [*[None] * (out.ndim - 1), state.labels(args[0])[1]])


_SPATIAL = re.compile(r"(pool|upsample|pad).*([123])d")
_MOVES = ("t", "permute", "transpose", "expand", "numpy_T")


def propagate(state: LabelPropagation, operation: Any, args: Sequence[Any], out: Any) -> bool:
    """Propagate the labels of an operation's arguments to its results.

    Args:
        state: the labels so far.
        operation: of aten, e.g. ``torch.ops.aten.relu.default``.
        args: positional arguments.
        out: what it returned.

    Returns:
        Whether the operation is known.
    """
    name = operation.overloadpacket.__name__
    spatial = _SPATIAL.search(name)
    if spatial:
        pooling(state, args, out, int(spatial.group(2)))
    elif name in _MOVES or "squeeze" in name:
        permutation(state, name, args, out)
    elif name in RULES:
        RULES[name](state, args, out)
    elif torch.Tag.pointwise in operation.tags:
        pointwise(state, args, out)
    else:
        return False
    return True
