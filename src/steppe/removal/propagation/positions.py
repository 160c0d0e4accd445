"""Concatenations, parts, repetitions: operations that take, join or repeat positions."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.removal.channel_labels import FIXED, PADDING
from steppe.removal.propagation.state import Arguments, Dims, LabelPropagation, rule


@rule("cat")
def concatenation(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Labels are concatenated along one dimension; the others are coupled."""
    tensors = [t for t in args[0] if t.ndim == out.ndim]
    dim = args.named["dim"] % out.ndim
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


@rule("stack")
def stack(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A new dimension; the others are coupled."""
    dims = list(state.labels(args[0][0]))
    for tensor in args[0][1:]:
        dims = [state.couple(a, b) for a, b in zip(dims, state.labels(tensor), strict=True)]
    dims.insert(args.named["dim"] % out.ndim, None)
    state.assign(out, dims)


@rule("split", "split_with_sizes", "unsafe_split", "unsafe_split_with_sizes", "unsafe_chunk")
@rule("chunk")
def parts(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Equal parts lose the same positions, so that they stay equal; others are fixed."""
    dims = list(state.labels(args[0]))
    dim = args.named["dim"] % len(dims)
    labels, count = dims[dim], len(out)
    if labels is not None and len(labels) == count * out[0].shape[dim] and count > 1:
        state.couple_rows(labels, count)
        own: Dims = list(labels.reshape(count, -1))
    elif count > 1:
        state.fix(labels, "is taken apart by position")
        own = [None] * count
    else:
        own = [labels]
    for result, taken in zip(out, own, strict=True):
        wide = None if taken is None or len(taken) < 2 else taken
        if taken is not None and wide is None:
            state.fix(taken, "is taken apart by position")
        state.assign(result, [*dims[:dim], wide, *dims[dim + 1 :]])


@rule("glu")
def halves(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A channel goes with its gate, which lies half of the channels behind it."""
    dims = list(state.labels(args[0]))
    dim = args.named["dim"] % len(dims)
    labels = dims[dim]
    if labels is not None:
        state.couple_rows(labels, 2)
        dims[dim] = labels[: len(labels) // 2]
    state.assign(out, dims)


@rule("slice", "select", "narrow", "index_select", "unbind")
def indexing(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """The positions that are taken are written in the model's code: channels are fixed."""
    x, dims = args[0], list(state.labels(args[0]))
    dim = args.named["dim"] % x.ndim
    for result in out if isinstance(out, list | tuple) else [out]:
        if result.ndim < x.ndim:  # select, unbind: the dimension itself is dropped
            state.fix(dims[dim], "is taken apart by position")
            state.assign(result, [*dims[:dim], *dims[dim + 1 :]])
            continue
        whole = result.shape[dim] == x.shape[dim] and "index" not in args.named
        if not whole:
            state.fix(dims[dim], "is taken apart by position")
        state.assign(result, [*dims[:dim], dims[dim] if whole else None, *dims[dim + 1 :]])


@rule("gather", "scatter", "scatter_", "scatter_add", "scatter_add_", "scatter_reduce")
@rule("scatter_reduce_", "index_add", "index_add_", "index_copy", "index_copy_", "index_fill")
@rule("index_fill_")
def along_an_index(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Positions of one dimension are read or written; along the others channels stay apart."""
    x, index = args[0], args.named["index"]
    source = args.named.get("src", args.named.get("source"))
    source = source if isinstance(source, Tensor) and source.ndim == x.ndim else x
    dims: Dims = []
    for d in range(x.ndim):
        sizes = {x.shape[d], source.shape[d], *([index.shape[d]] if index.ndim == x.ndim else [])}
        if d == args.named["dim"] % x.ndim or len(sizes) > 1:
            for labels in (state.labels(x)[d], state.labels(source)[d]):
                state.fix(labels, "is taken apart by position")
            dims.append(None)
        else:
            dims.append(state.labels(x)[d] if source is x else state.join(x, source, d))
    state.assign(out, dims)


@rule("index", "_unsafe_index")
def advanced_indexing(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """As `indexing`, with tensors of positions for some of the dimensions."""
    x, indices = args[:2]
    dims = list(state.labels(x))
    kept: Dims = []
    places: list[int] = []
    dim = 0
    for index in indices:
        if index is None:
            kept.append(dims[dim])
            dim += 1
            continue
        consumed = index.ndim if index.dtype in (torch.bool, torch.uint8) else 1
        for labels in (*dims[dim : dim + consumed], *state.labels(index)):
            state.fix(labels, "is taken apart by position")
        places.append(len(kept))
        dim += consumed
    kept += dims[dim:]
    # the positions' own dimensions come where the tensors stood, or first if they stood apart
    first = places[0] if len(set(places)) == 1 else 0
    new: Dims = [None] * (out.ndim - len(kept))
    state.assign(out, [*kept[:first], *new, *kept[first:]])


def _without_space(state: LabelPropagation, x: Tensor) -> Dims:
    """The dimensions before height and width, along which no channels may lie."""
    *dims, height, width = state.labels(x)
    for labels in (height, width):
        state.fix(labels, "lies along the space of an image")
    return dims


@rule("pixel_shuffle")
def pixel_shuffle(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A channel is made of as many as a pixel becomes; they lie side by side."""
    *batch, labels = _without_space(state, args[0])
    size = args[1] ** 2
    if labels is not None:
        state.couple_rows(labels.reshape(-1, size).T.reshape(-1), size)
        labels = labels[::size]
    state.assign(out, [*batch, labels if labels is None or len(labels) > 1 else None, None, None])


@rule("pixel_unshuffle")
def pixel_unshuffle(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """The inverse of `pixel_shuffle`."""
    *batch, labels = _without_space(state, args[0])
    repeated = None if labels is None else np.repeat(labels, args[1] ** 2)
    state.assign(out, [*batch, repeated, None, None])


@rule("channel_shuffle", "native_channel_shuffle")
def channel_shuffle(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """The groups lose the same positions, so that they stay equal; then they are interleaved."""
    dims = list(state.labels(args[0]))
    if dims[1] is not None:
        state.couple_rows(dims[1], args[1])
        dims[1] = dims[1].reshape(args[1], -1).T.reshape(-1)
    state.assign(out, dims)


@rule("im2col")
def patches(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Each channel becomes as many rows as a patch has pixels."""
    *batch, labels = _without_space(state, args[0])
    rows = None if labels is None else np.repeat(labels, prod(args[1]))
    state.assign(out, [*batch, rows, None])


@rule("grid_sampler_2d", "grid_sampler_3d", "cudnn_grid_sampler")
def sampling(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Positions in space are interpolated; the grid has no channels."""
    for labels in (*state.labels(args[0])[2:], *state.labels(args[1])):
        state.fix(labels, "lies along the space that is sampled")
    state.assign(out, [*state.labels(args[0])[:2], *[None] * (out.ndim - 2)])


@rule("constant_pad_nd")
def padding(state: LabelPropagation, args: Arguments, out: Any) -> None:
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


@rule("repeat")
def repetition(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Labels are repeated like the tensor."""
    x, times = args[:2]
    dims = [*[None] * (out.ndim - x.ndim), *state.labels(x)]
    pairs = zip(dims, times, strict=True)
    state.assign(out, [None if own is None else np.tile(own, count) for own, count in pairs])
