"""Operations along some of the dimensions: sums, extremes, order, pooling."""

from __future__ import annotations

from typing import Any

from steppe.removal.propagation.state import Arguments, LabelPropagation, rule


@rule("mean", "sum", "amax", "amin", "var", "std", "var_mean", "std_mean", "linalg_vector_norm")
@rule("norm", "max", "min", "prod", "all", "any", "argmax", "argmin", "median", "nanmedian")
@rule("mode", "kthvalue", "logsumexp", "nansum", "nanmean", "aminmax", "count_nonzero")
def reduction(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Channels that are summed over are fixed; the extremes of each channel are its own."""
    x, dims = args[0], list(state.labels(args[0]))
    reduced = args.dimensions(x.ndim)
    for dim in reduced:
        state.fix(dims[dim], "is summed over")
    for result in out if isinstance(out, tuple) else (out,):
        keepdim = result.ndim == x.ndim
        kept = [d for d in range(x.ndim) if keepdim or d not in reduced]
        state.assign(result, [None if d in reduced else dims[d] for d in kept])


@rule("_softmax", "_log_softmax", "_safe_softmax", "cumsum", "cumprod", "cummax", "cummin")
@rule("logcumsumexp", "flip", "roll", "sort", "argsort", "topk")
@rule("_fft_r2c", "_fft_c2r", "_fft_c2c")
def mixing(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """An operation that mixes the positions of some dimensions fixes the channels along them."""
    x, dims = args[0], list(state.labels(args[0]))
    for dim in args.dimensions(x.ndim):
        state.fix(dims[dim], "goes through an operation that mixes channels")
    for result in out if isinstance(out, tuple | list) else (out,):
        same = [labels if result.shape[d] == x.shape[d] else None for d, labels in enumerate(dims)]
        state.assign(result, same)


@rule("tril", "triu")
def triangle(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """What stays depends on the positions along the last two dimensions."""
    dims = list(state.labels(args[0]))
    for labels in dims[-2:]:
        state.fix(labels, "is cut to a triangle")
    state.assign(out, dims)


@rule("unfold")
def windows(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Windows along one dimension; a window's positions are a new last dimension."""
    dims = list(state.labels(args[0]))
    for dim in args.dimensions(len(dims)):
        state.fix(dims[dim], "is cut into windows")
        dims[dim] = None
    state.assign(out, [*dims, None])


def pooling(state: LabelPropagation, args: Arguments, out: Any, spatial: int) -> None:
    """Spatial sizes change, channels stay."""
    dims = list(state.labels(args[0]))
    for dim in range(len(dims) - spatial, len(dims)):
        state.fix(dims[dim], "is pooled over")
        dims[dim] = None
    for result in out if isinstance(out, tuple) else (out,):
        state.assign(result, list(dims))
