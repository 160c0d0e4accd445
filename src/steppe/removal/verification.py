"""Whether two models compute the same, in evaluation and in training mode."""

from __future__ import annotations

from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from steppe.core.errors import SteppeError
from steppe.removal.containers import map_tensors, tensors_of
from steppe.removal.copies import copy_of
from steppe.removal.forward import (
    RunningModules,
    call,
    inputs_for,
    kept_tensors,
    two_samples,
    untouched,
)

TOLERANCE = 1e-5
_FILLED = ("uniform_", "normal_", "exponential_", "random_", "rand", "randn", "normal", "poisson")


class Difference(Exception):
    """Two models do not compute the same.

    Args:
        what: in words; where the second did not run, its error.
        ran: whether the second one ran.
    """

    def __init__(self, what: str, ran: bool) -> None:
        super().__init__(what)
        self.ran = ran


class _NoChance(TorchDispatchMode):
    """Random draws are constants, so that networks of different widths can be compared."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded not in func.tags:
            return func(*args, **kwargs)
        name = func.overloadpacket.__name__.removesuffix("_like")
        names = [argument.name for argument in func._schema.arguments]
        if name == "native_dropout":
            return args[0].clone(), torch.ones_like(args[0], dtype=torch.bool)
        for switch, off in (("dropout_p", 0.0), ("training", False)):
            if switch in names:  # of attention, of a randomised ReLU
                place = names.index(switch)
                args = tuple(off if i == place else value for i, value in enumerate(args))
                kwargs |= {switch: off} if place >= len(args) else {}
        out = func(*args, **kwargs)
        if name.startswith("bernoulli"):
            return out.fill_(1)
        return out.fill_(0.5) if name in _FILLED and isinstance(out, Tensor) else out


def largest_difference(
    before: nn.Module, after: nn.Module, example_inputs: Any, training: bool
) -> float:
    """By how much outputs differ, relative to the largest, in float32; if too much, in float64.

    Args:
        before: the model that says what is right.
        after: the one that must give the same.
        example_inputs: one batch; noise is added to what is real in it.
        training: the mode of both; chance is left out in it.

    Raises:
        Difference: ``after`` does not run, or its outputs differ by more than 1e-5.
        SteppeError: ``before`` does not run.
    """
    noisy = map_tensors(example_inputs, _with_noise)
    inputs = two_samples(noisy) if training else noisy
    error = float("inf")
    # sums in another order differ a little in float32: what is wrong is so in float64 too
    for dtype in (torch.float32, torch.float64):
        expected = _outputs(before, inputs, dtype, training)
        try:
            got = _outputs(after, inputs, dtype, training)
        except SteppeError as failed:
            raise Difference(str(failed.got), ran=False) from failed
        before_shapes, shapes = ([tuple(t.shape) for t in out] for out in (expected, got))
        if before_shapes != shapes:
            pairs = zip_longest(before_shapes, shapes, fillvalue="none")
            old, new = next(pair for pair in pairs if pair[0] != pair[1])
            raise Difference(f"outputs of other shapes ({old} became {new})", ran=True)
        error = max((_gap(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)
        if error <= TOLERANCE:
            return error
    raise Difference(f"outputs that differ by {error:.1e} of the largest", ran=True)


def is_steady(model: nn.Module, example_inputs: Any, training: bool) -> bool:
    """Whether a model gives the same for the same inputs twice; chance from torch is left out."""
    try:
        largest_difference(model, model, example_inputs, training)
    except Difference:
        return False
    return True


def _gap(a: Tensor, b: Tensor) -> float:
    if not (a.is_floating_point() or a.is_complex()) or not a.numel():
        return 0.0  # positions and masks follow from numbers, which may be equal but for rounding
    finite = a.isfinite()
    if not torch.equal(finite, b.isfinite()):
        return float("inf")
    a, b = torch.where(finite, a, 0), torch.where(finite, b, 0)
    return float((a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny))


def _outputs(model: nn.Module, inputs: Any, dtype: torch.dtype, training: bool) -> list[Tensor]:
    """Every tensor that a model gives, or keeps as an attribute."""
    model = copy_of(model, dtype)  # the given model keeps its dtype
    before = [tensor for _, tensor in kept_tensors(model)]
    running = RunningModules(model)
    try:
        with untouched(model, training), running.watched(), _NoChance():
            out = tensors_of(call(model, inputs_for(model, inputs)), consume=True)
    except SteppeError as failed:
        inside = f" in {running.innermost}" if running.innermost else ""
        raise SteppeError(
            failed.rule, got=f"{failed.got}{inside}", way_out=failed.way_out
        ) from failed
    known = {id(tensor) for tensor in before}
    kept = [tensor for _, tensor in kept_tensors(model) if id(tensor) not in known]
    return [dense(tensor.detach()) for tensor in (*out, *kept)]


def dense(tensor: Tensor) -> Tensor:
    """A nested, sparse or quantised tensor as a plain one."""
    if tensor.is_nested:
        return torch.cat([part.flatten() for part in tensor.unbind()])
    if tensor.is_quantized:
        return tensor.dequantize()
    return tensor if tensor.layout == torch.strided else tensor.to_dense()


def _with_noise(tensor: Tensor) -> Tensor:
    """Examples are often zeros, which would hide differences."""
    if not tensor.is_floating_point():
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + noise.to(tensor.device, tensor.dtype)
