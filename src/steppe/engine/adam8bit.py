"""Adam whose two moments take a byte of each weight: torchao's, quick on a processor too."""

from __future__ import annotations

import functools
import importlib.util
import logging
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from steppe.core.optional_import import require
from steppe.core.split import part_of

_PIECE = 1 << 18
"""Entries that are computed at once: they stay within the cache, and so does what is between."""


def installed() -> bool:
    """Whether torchao is there."""
    return importlib.util.find_spec("torchao") is not None


@functools.cache
def adam8bit() -> type[torch.optim.Optimizer]:
    """`torchao.optim.Adam8bit`, for floats as learning rate too, without a compiler on a processor.

    Both moments are kept in blocks of 256, with one float32 for each block and for each entry a
    code of 8 bits, the nearest of a fixed map. A step computes in float32 with the moments as they
    were before they are rounded. A tensor of fewer than 4,096 entries, or one that blocks do not
    divide, keeps its moments as they are. torchao compiles the step of each shape; on a processor
    the same function is run on pieces, and codes are looked up, which gives the same bits.

    Returns:
        The class, made when it is asked for first: torchao takes seconds to import.

    Raises:
        SteppeError: torchao is not installed.

    Source: Dettmers et al., 8-bit optimizers via block-wise quantization (ICLR 2022).
    """
    theirs = _torchao()

    class Adam8bit(theirs.adam.Adam8bit):  # type: ignore[misc, name-defined]
        """See `adam8bit`."""

        def __init__(
            self,
            params: Any,
            lr: float = 1e-3,
            betas: tuple[float, float] = (0.9, 0.999),
            eps: float = 1e-8,
            weight_decay: float = 0.0,
            block_size: int = 256,
        ) -> None:
            usual = {"betas": betas, "eps": eps, "weight_decay": weight_decay}
            # torchao's own amsgrad compares what cannot be compared
            super().__init__(params, lr, **usual, amsgrad=False, block_size=block_size)

        @torch.no_grad()
        def step(self, closure: Callable[[], Any] | None = None) -> Any:
            for group in self.param_groups:  # torchao wants a tensor, schedules give a number
                group["lr"] = torch.as_tensor(group["lr"], dtype=torch.float32)
            moved = [(p, g) for g in self.param_groups for p in g["params"] if p.grad is not None]
            if any(p.device.type != "cpu" for p, _ in moved):
                return super().step(closure)
            loss = None if closure is None else torch.enable_grad()(closure)()
            for p, group in moved:
                self._move(p, group)
            return loss

        def _move(self, p: Tensor, group: dict[str, Any]) -> None:
            state, signed = self.state[p], {"exp_avg": True, "exp_avg_sq": False}
            if not state:
                state["step"] = torch.tensor(0.0)
                state |= {n: self._new_buffer(p.contiguous(), signed[n]) for n in signed}
            state["step"] += 1
            beta1, beta2 = group["betas"]
            own, grads = part_of(p.detach()), p.grad
            assert grads is not None
            weight = own.contiguous()
            mine = [weight, part_of(grads), *(part_of(state[n]) for n in signed)]
            for x, grad, *moments in zip(*map(_pieces, mine), strict=True):
                values = [_read(m) for m in moments]
                theirs.adam.single_param_adam(
                    *(x, grad, state["step"], *values, None),
                    *(group["lr"], beta1, beta2, group["weight_decay"], group["eps"]),
                    IS_ADAMW=False,
                    BF16_STOCHASTIC_ROUND=False,
                )
                for m, value in zip(moments, values, strict=True):
                    _write(m, value)
            if weight is not own:  # channels last, say
                own.copy_(weight)

    return Adam8bit


def _pieces(tensor: Any) -> Iterator[Any]:
    """Views of consecutive entries, which share the tensor's memory; of a quantised one blocks."""
    if not hasattr(tensor, "codes"):
        yield from tensor.contiguous().view(-1).split(_PIECE)
        return
    size = tensor.block_size
    rows = tensor.codes.view(-1, size).split(_PIECE // size)
    for codes, scale in zip(rows, tensor.scale.unsqueeze(1).split(_PIECE // size), strict=True):
        yield SimpleNamespace(codes=codes, scale=scale, qmap=tensor.qmap, signed=tensor.signed)


def _read(moment: Any) -> Tensor:
    """The numbers of a piece; those of a quantised one are new."""
    if isinstance(moment, Tensor):
        return moment
    found: Tensor = moment.qmap.index_select(0, moment.codes.view(-1).int())
    return found.view(moment.codes.shape).mul_(moment.scale).view(-1)


def _write(moment: Any, values: Tensor) -> None:
    """Numbers into a quantised piece, each block over its largest and then the nearest code."""
    if isinstance(moment, Tensor):
        return  # they are its own
    blocks = values.view(moment.codes.shape)
    scale = blocks.abs().amax(1, keepdim=True).clip(1e-12)
    moment.scale.copy_(scale)
    moment.codes.view(-1).copy_(nearest((blocks / scale).view(-1), moment.signed))


def nearest(values: Tensor, signed: bool) -> Tensor:
    """Which number of torchao's map is nearest to each value, the upper one of two.

    The upper half of a value's bits says so but for one, as no two bounds share an upper half.

    Args:
        values: [n], float32, at most 1 in size.
        signed: whether they may be negative, which has a map of its own.

    Returns:
        [n] codes, uint8.
    """
    least, bounds = _codes(signed)
    code = least.index_select(0, (values.view(torch.int32) >> 16) + (1 << 15))
    return code.add_(values >= bounds.index_select(0, code.int()))


@functools.cache
def _codes(signed: bool) -> tuple[Tensor, Tensor]:
    """For each upper half of a float32's bits the least code; the least value of each next code."""
    numbers = torch.tensor(_torchao().quant_utils.create_dynamic_map(signed))
    bounds = (numbers[1:] + numbers[:-1]) / 2
    half = torch.arange(-(1 << 15), 1 << 15, dtype=torch.int32) << 16
    ends = torch.stack([half, half | 0xFFFF]).view(torch.float32).nan_to_num(0.0, 0.0, 0.0)
    codes = torch.bucketize(ends, bounds, right=True).sort(0).values
    assert bool((codes[1] - codes[0] <= 1).all())
    return codes[0].to(torch.uint8), torch.cat([bounds, torch.tensor([torch.inf])])


@functools.cache
def _torchao() -> Any:
    """torchao's optimisers; what it says of kernels for GPUs while it is imported is unheard.

    Raises:
        SteppeError: it is not installed.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        how = {"install": "'steppe[adam8bit]'", "purpose": "optimizer adam8bit"}
        require("torchao.optim.adam", **how)
        return require("torchao.optim", **how)
    finally:
        logging.disable(before)
