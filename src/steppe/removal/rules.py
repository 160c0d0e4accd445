"""What each operation of torch does to the channels of its tensors."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from math import prod
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.removal.atoms import FIXED, PAD, Atoms, Labels

Dims = list[Labels | None]


class Flight:
    """The labels of the tensors that are in flight while a model runs.

    Args:
        atoms: what is learnt goes there.
    """

    def __init__(self, atoms: Atoms) -> None:
        self.atoms = atoms
        self.held: dict[int, tuple[Tensor, Dims]] = {}
        """The tensors are held too, so that no id is given twice."""
        self.where = ""
        self.shortcut: tuple[int, int] | None = None
        """Zeros that the module that runs puts around channels, where surgery can set how many."""

    def of(self, tensor: Tensor) -> Dims:
        """The labels of a tensor's dimensions."""
        if id(tensor) in self.held:
            return self.held[id(tensor)][1]
        known = self.atoms.of.get(id(tensor))
        return [None] * tensor.ndim if known is None else known

    def put(self, tensor: Tensor, dims: Dims) -> None:
        """Say what the labels of a new tensor are."""
        assert len(dims) == tensor.ndim, (len(dims), tensor.shape)
        self.held[id(tensor)] = (tensor, dims)

    def join(self, a: Labels | None, b: Labels | None) -> Labels | None:
        """Two dimensions that lie over each other."""
        return None if a is None and b is None else self.atoms.join(a, b, self.where)

    def contract(self, a: Labels | None, b: Labels | None) -> None:
        """Two dimensions that are multiplied and summed over."""
        if a is not None or b is not None:
            self.atoms.contract(a, b, self.where)

    def fix(self, labels: Labels | None, why: str) -> None:
        """These must stay."""
        self.atoms.fix(labels, why + self.where)


Rule = Callable[[Flight, Sequence[Any], Any], None]
RULES: dict[str, Rule] = {}


def rule(*names: str) -> Callable[[Rule], Rule]:
    """Register what the operations ``aten.<name>`` do to labels."""

    def add(function: Rule) -> Rule:
        RULES.update(dict.fromkeys(names, function))
        return function

    return add


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "hardswish", "hardswish_")
@rule("_prelu_kernel", "threshold", "zeros_like", "ones_like", "full_like", "empty_like", "where")
def pointwise(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Dimensions that lie over each other, from the right, go together."""
    out = out[0] if isinstance(out, tuple) else out
    tensors = [a for a in args if isinstance(a, Tensor)]
    dims: Dims = []
    for back in range(out.ndim, 0, -1):
        wide = [t for t in tensors if t.ndim >= back and t.shape[-back] > 1]
        joined = flight.of(wide[0])[-back] if wide else None
        for tensor in wide[1:]:
            joined = flight.join(joined, flight.of(tensor)[-back])
        dims.append(joined)
    flight.put(out, dims)


@rule("convolution")
def convolution(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Columns go with the input's channels; grouped convolutions keep their number of groups."""
    x, weight, bias, *_, transposed, _, groups = args
    rows, columns = (1, 0) if transposed else (0, 1)
    w, channels = flight.of(weight), flight.of(x)[1]
    made = w[rows]
    if groups > 1 and transposed:
        for labels in (made, w[columns], channels):
            flight.fix(labels, "belongs to a transposed convolution in groups")
    elif groups > 1 and weight.shape[columns] == 1:  # depthwise: follows its producer
        times = weight.shape[rows] // groups
        flight.join(made, None if channels is None else np.repeat(channels, times))
    elif groups > 1:
        # the same positions leave each of the groups, so that these stay of one size
        columns_of_all = w[columns]
        if columns_of_all is not None:
            columns_of_all = np.tile(columns_of_all, groups)
        flight.contract(columns_of_all, channels)
        _level(flight, channels, groups)
        _level(flight, made, groups)
    else:
        flight.contract(w[columns], channels)
    if bias is not None:
        flight.join(flight.of(bias)[0], made)
    flight.put(out, [flight.of(x)[0], made, *[None] * (out.ndim - 2)])


def _level(flight: Flight, labels: Labels | None, groups: int) -> None:
    if labels is not None:
        table = labels.reshape(groups, -1)
        for row in table[1:]:
            flight.join(table[0], row)


@rule("mm", "addmm", "mv", "bmm", "baddbmm", "addmv", "dot")
def product(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """The inner dimensions are summed over, the outer ones stay."""
    *bias, a, b = [t for t in args if isinstance(t, Tensor)]
    left, right = flight.of(a), flight.of(b)
    first, last = left[:-1], right[max(len(right) - 1, 1) :]
    flight.contract(left[-1], right[max(len(right) - 2, 0)])
    if out.ndim == 3:
        first[0] = flight.join(first[0], right[0])
    dims = [*first, *last]
    for extra in bias:
        for back, labels in enumerate(reversed(flight.of(extra)), 1):
            if extra.shape[-back] > 1:
                dims[-back] = flight.join(labels, dims[-back])
    flight.put(out, dims)


@rule("native_batch_norm", "_native_batch_norm_legit_no_training", "_native_batch_norm_legit")
@rule("cudnn_batch_norm", "miopen_batch_norm", "_batch_norm_no_update")
def batch_norm(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Scale, shift and running statistics go with the channels."""
    dims = list(flight.of(args[0]))
    for tensor in args[1:5]:
        if isinstance(tensor, Tensor) and tensor.shape[0] > 1:
            dims[1] = flight.join(dims[1], flight.of(tensor)[0])
    flight.put(out[0], dims)


@rule("native_layer_norm", "native_group_norm")
def mixing_norm(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """A norm over channels: without some of them its statistics would be others."""
    x = args[0]
    dims = list(flight.of(x))
    over = range(x.ndim - len(args[1]), x.ndim) if isinstance(args[1], list | tuple) else [1]
    for dim in over:
        flight.fix(dims[dim], "goes through a norm that mixes channels")
    for tensor in args[1:]:
        for labels in flight.of(tensor) if isinstance(tensor, Tensor) else ():
            flight.fix(labels, "belongs to a norm that mixes channels")
    flight.put(out[0], dims)


@rule("_softmax", "_log_softmax", "cumsum", "flip")
def along(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """What mixes the positions of one dimension."""
    dims = list(flight.of(args[0]))
    chosen = args[1] if isinstance(args[1], int) else args[1][0]
    flight.fix(dims[chosen], "goes through an operation that mixes channels")
    out = out[0] if isinstance(out, tuple) else out
    flight.put(out, dims)


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "linalg_vector_norm", "norm")
def reduction(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """What is summed over must be no channels, unless it all stays."""
    x, dims = args[0], list(flight.of(args[0]))
    given = next((a for a in args[1:] if isinstance(a, list | tuple)), range(x.ndim))
    gone = {d % x.ndim for d in given} or set(range(x.ndim))
    for dim in gone:
        flight.fix(dims[dim], "is summed over")
    for one in out if isinstance(out, tuple) else (out,):
        kept = one.ndim == x.ndim
        left = [None if d in gone else dims[d] for d in range(x.ndim) if kept or d not in gone]
        flight.put(one, left)


def pooling(flight: Flight, args: Sequence[Any], out: Any, spatial: int) -> None:
    """Space changes, channels stay."""
    dims = list(flight.of(args[0]))
    for dim in range(len(dims) - spatial, len(dims)):
        flight.fix(dims[dim], "is pooled over")
        dims[dim] = None
    for one in out if isinstance(out, tuple) else (out,):
        flight.put(one, list(dims))


@rule("view", "_unsafe_view", "reshape", "_reshape_alias")
def reshape(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Dimensions that are merged or split again: a channel may own several positions."""
    x = args[0]
    dims: Dims = []
    for ins, outs in _matched(list(x.shape), list(out.shape)):
        sizes = [x.shape[i] for i in ins]
        flat = _merged(flight, [flight.of(x)[i] for i in ins], sizes)
        dims += _split(flight, flat, [out.shape[i] for i in outs])
    flight.put(out, dims)


def _matched(a: list[int], b: list[int]) -> list[tuple[list[int], list[int]]]:
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


def _merged(flight: Flight, dims: Dims, sizes: list[int]) -> Labels | None:
    marked = [i for i, labels in enumerate(dims) if labels is not None]
    if len(marked) > 1:
        for i in marked:
            flight.fix(dims[i], "is reshaped together with other channels")
        return None
    if not marked:
        return None
    labels = dims[marked[0]]
    assert labels is not None
    shape = [1] * len(sizes)
    shape[marked[0]] = -1
    return np.broadcast_to(labels.reshape(shape), sizes).reshape(-1)


def _split(flight: Flight, flat: Labels | None, sizes: list[int]) -> Dims:
    dims: Dims = [None] * len(sizes)
    if flat is None:
        return dims
    table = flat.reshape(sizes)
    for dim in range(len(sizes)):
        first = np.moveaxis(table, dim, 0).reshape(sizes[dim], -1)
        if sizes[dim] > 1 and (first == first[:, :1]).all():
            dims[dim] = first[:, 0].copy()
            return dims
    flight.fix(flat, "is split into several dimensions")
    return dims


def move(flight: Flight, name: str, args: Sequence[Any], out: Tensor) -> None:
    """Dimensions change places, come or go."""
    x = args[0]
    dims = list(flight.of(x))
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
    flight.put(out, dims)


@rule("cat")
def concatenation(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Channels side by side; all else lies over each other."""
    parts = [t for t in args[0] if t.ndim == out.ndim]
    dim = (args[1] if len(args) > 1 else 0) % out.ndim
    dims: Dims = []
    for d in range(out.ndim):
        held = [flight.of(t)[d] for t in parts]
        if d != dim:
            joined = held[0]
            for labels in held[1:]:
                joined = flight.join(joined, labels)
            dims.append(joined)
        elif all(labels is None for labels in held):
            dims.append(None)
        else:
            fixed = [np.full(t.shape[d], FIXED, dtype=np.int64) for t in parts]
            sides = [f if one is None else one for f, one in zip(fixed, held, strict=True)]
            dims.append(np.concatenate(sides))
    flight.put(out, dims)


@rule("split", "split_with_sizes", "chunk", "unbind", "slice", "select", "narrow", "index_select")
def part(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Which channels are taken is written in the model's code: they must stay."""
    x, dims = args[0], list(flight.of(args[0]))
    outs = out if isinstance(out, list | tuple) else [out]
    if outs[0].ndim < x.ndim:  # select, unbind: the dimension itself goes
        named = next((a for a in args[1:] if isinstance(a, int)), 0)
        flight.fix(dims.pop(named % x.ndim), "is taken apart by position")
    else:
        for dim in range(x.ndim):
            if any(one.shape[dim] != x.shape[dim] for one in outs):
                flight.fix(dims[dim], "is taken apart by position")
                dims[dim] = None
    for one in outs:
        flight.put(one, list(dims))


@rule("constant_pad_nd")
def padding(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Zeros around: their number is fixed, but for the shortcuts that surgery knows."""
    x, pads = args[0], args[1]
    dims = list(flight.of(x))
    for i in range(len(pads) // 2):
        front, back, labels = pads[2 * i], pads[2 * i + 1], dims[x.ndim - 1 - i]
        if labels is not None and (front or back):
            if min(front, back) < 0:
                flight.fix(labels, "is taken apart by position")
                dims[x.ndim - 1 - i] = None
                continue
            zeros = PAD if flight.shortcut == (front, back) else FIXED
            dims[x.ndim - 1 - i] = np.pad(labels, (front, back), constant_values=zeros)
    flight.put(out, dims)


@rule("new_zeros", "new_ones", "new_full", "new_empty")
def new(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """A tensor of a size of its own: whatever it meets must stay."""
    flight.put(out, [None] * out.ndim)


@rule("repeat")
def repetition(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """A tensor several times side by side."""
    x, times = args
    dims = [*[None] * (out.ndim - x.ndim), *flight.of(x)]
    pairs = zip(dims, times, strict=True)
    flight.put(out, [None if one is None else np.tile(one, count) for one, count in pairs])


@rule("embedding")
def embedding(flight: Flight, args: Sequence[Any], out: Any) -> None:
    """Rows are looked up, columns are channels."""
    flight.put(out, [*[None] * (out.ndim - 1), flight.of(args[0])[1]])


_SPATIAL = re.compile(r"(pool|upsample|pad).*([123])d")
_MOVES = ("t", "permute", "transpose", "expand", "numpy_T")


def follow(flight: Flight, operation: Any, args: Sequence[Any], out: Any) -> bool:
    """Carry the labels from an operation's arguments to its results.

    Args:
        flight: labels of tensors.
        operation: of aten, e.g. ``torch.ops.aten.relu.default``.
        args: positional arguments.
        out: what it returned.

    Returns:
        Whether the operation is known.
    """
    name = operation.overloadpacket.__name__
    spatial = _SPATIAL.search(name)
    if spatial:
        pooling(flight, args, out, int(spatial.group(2)))
    elif name in _MOVES or "squeeze" in name:
        move(flight, name, args, out)
    elif name in RULES:
        RULES[name](flight, args, out)
    elif torch.Tag.pointwise in operation.tags:
        pointwise(flight, args, out)
    else:
        return False
    return True
