"""Operations that give each position what depends on this position alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from steppe.removal.propagation.state import Arguments, Dims, LabelPropagation, first_of, rule


@rule("clone", "detach", "alias", "_to_copy", "contiguous", "lift_fresh", "hardswish", "hardswish_")
@rule("_prelu_kernel", "threshold", "zeros_like", "ones_like", "full_like", "empty_like", "where")
@rule("rand_like", "randn_like", "randint_like", "bernoulli", "bernoulli_", "uniform_", "normal_")
@rule("exponential_", "random_", "fill_", "zero_", "native_dropout", "log_sigmoid_forward")
@rule("rrelu_with_noise", "rrelu_with_noise_", "_conj", "_to_dense", "view_as", "expand_as")
def pointwise(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Couple aligned dimensions, counted from the last as in broadcasting."""
    tensors = [a for a in args if isinstance(a, Tensor) and not state.is_fresh(a)]
    out = first_of(out)
    dims: Dims = []
    for back in range(out.ndim, 0, -1):
        wide = [t for t in tensors if t.ndim >= back and t.shape[-back] > 1]
        coupled = state.labels(wide[0])[-back] if wide else None
        for tensor in wide[1:]:
            coupled = state.couple(coupled, state.labels(tensor)[-back])
        dims.append(coupled)
    state.assign(out, dims)


@rule("copy_")
def copy(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Labels pass to the tensor that is written to, and to the one that it is a view of."""
    target, source = args[:2]
    dims: Dims = [*[None] * (target.ndim - source.ndim), *state.labels(source)]
    # a view's own labels were taken when it was made: what was written since lies in its base
    base = target if target._base is None else target._base
    if base.ndim != target.ndim or base.stride() != target.stride():
        for labels in (*dims, *state.labels(base)):
            state.fix(labels, "is written into a part of another tensor")
        return
    written: Dims = []
    for dim, (labels, own) in enumerate(zip(dims, state.labels(base), strict=True)):
        if base.shape[dim] != target.shape[dim]:
            state.fix(labels, "is written at fixed positions")
            state.fix(own, "is written at fixed positions")
            written.append(None)
        else:  # empty memory takes the labels of what is written first
            written.append(labels if own is None else state.couple(own, labels))
    state.assign(base, written)
    if target is not base:
        state.assign(target, list(written))


_MADE = ("zeros", "ones", "full", "empty", "empty_strided", "rand", "randn", "scalar_tensor")
_PASSED_ON = {
    *("clone", "detach", "_to_copy", "alias", "lift_fresh", "view", "expand", "t", "transpose"),
    *("bernoulli_", "uniform_", "normal_", "exponential_", "fill_", "zero_"),
}
_MADE_LIKE = tuple(f"new_{name}" for name in _MADE[:5])


@rule(*_MADE_LIKE)
def new(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """A new tensor, of whatever size."""
    state.mark_fresh(out)


def follow_fresh(
    state: LabelPropagation, operation: Any, tensors: Sequence[Tensor], out: Any
) -> None:
    """Which tensors without labels are new ones, see `LabelPropagation.mark_fresh`."""
    if operation.namespace != "aten" or not isinstance(out, Tensor):
        return
    name = operation.overloadpacket.__name__
    alike = name in _PASSED_ON or torch.Tag.pointwise in operation.tags
    if name in _MADE + _MADE_LIKE or (tensors and alike and all(map(state.is_fresh, tensors))):
        state.mark_fresh(out)
