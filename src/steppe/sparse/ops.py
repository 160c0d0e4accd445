"""Products with packed matrices as operators of torch, which compile and export like its own.

For each layout (*bits*, *index*, *csr*) there are three:

- ``steppe_sparse::bits_linear``: y = x W^T + b, with gradients for x and b;
- ``steppe_sparse::bits_product``: the same where nobody asks for a gradient, with less overhead;
- ``steppe_sparse::bits_transposed``: g W, which is the gradient.

All take a packed matrix as (where, values, starts, scale, rows, columns), see
`steppe.sparse.packed.PackedFormat`, which has checked it; x and b are checked here. Few tokens are
multiplied by the kernels; more, and all where there are no kernels, by unpacking some rows at a
time, which torch multiplies.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from steppe.sparse.checks import Matrix, check_gradient, check_product
from steppe.sparse.layouts import BITS, CSR, INDEX, Layout, portion

_MATRIX = "Tensor where, Tensor values, Tensor starts, Tensor? scale, SymInt rows, SymInt columns"
_registered = torch.library.Library("steppe_sparse", "DEF")
Operator = Callable[..., Tensor]


def _multiply(layout: Layout, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor:
    """y = x W^T + b."""
    check_product(x, bias, matrix)
    y = layout.multiply(x, bias, matrix)
    if y is not None:
        return y
    with torch.autocast(x.device.type, enabled=False):
        return _by_portions(layout, x, bias, matrix)


def _by_portions(layout: Layout, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor:
    """The same by torch's own product, with some rows at a time."""
    rows, columns = matrix[-2:]
    y = x.new_empty((*x.shape[:-1], rows))
    flat, out = x.reshape(x.shape[:-1].numel(), columns), y.view(x.shape[:-1].numel(), rows)
    step = portion(columns, x.dtype, x.device)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        tile = layout.unpack(matrix, first, last).to(x.dtype).t()
        if bias is None:
            torch.mm(flat, tile, out=out[:, first:last])
        else:
            torch.addmm(bias[first:last].to(x.dtype), flat, tile, out=out[:, first:last])
    return y


def _transposed(layout: Layout, g: Tensor, matrix: Matrix) -> Tensor:
    """g W, summed over the portions of rows in float32."""
    check_gradient(g, matrix)
    rows, columns = matrix[-2:]
    flat = g.reshape(g.shape[:-1].numel(), rows)
    kind = torch.promote_types(g.dtype, torch.float32)
    total = torch.zeros(len(flat), columns, dtype=kind, device=g.device)
    step = portion(columns, g.dtype, g.device)
    for first in range(0, rows, step):
        last = min(first + step, rows)
        tile = layout.unpack(matrix, first, last).to(g.dtype)
        with torch.autocast(g.device.type, enabled=False):
            total += flat[:, first:last] @ tile
    return total.to(g.dtype).view(*g.shape[:-1], columns)


def _fake_product(x: Tensor, bias: Tensor | None, *matrix: Any) -> Tensor:
    check_product(x, bias, matrix)  # type: ignore[arg-type]
    return x.new_empty((*x.shape[:-1], matrix[-2]))


def _fake_transposed(g: Tensor, *matrix: Any) -> Tensor:
    check_gradient(g, matrix)  # type: ignore[arg-type]
    return g.new_empty((*g.shape[:-1], matrix[-1]))


def _register(name: str, layout: Layout) -> tuple[Operator, Operator]:
    """The three operators of a layout; returns the first two."""
    linear, product, transposed = (f"{name}_{what}" for what in ("linear", "product", "transposed"))
    tags = (torch.Tag.pt2_compliant_tag,)
    for each in (linear, product):
        _registered.define(f"{each}(Tensor x, Tensor? bias, {_MATRIX}) -> Tensor", tags=tags)
        _registered.impl(
            each,
            lambda x, bias, *matrix: _multiply(layout, x, bias, matrix),
            "CompositeExplicitAutograd",
        )
        torch.library.register_fake(
            f"steppe_sparse::{each}",
            _fake_product,
            lib=_registered,
        )
    _registered.define(f"{transposed}(Tensor g, {_MATRIX}) -> Tensor", tags=tags)
    _registered.impl(
        transposed,
        lambda g, *matrix: _transposed(layout, g, matrix),
        "CompositeExplicitAutograd",
    )
    torch.library.register_fake(
        f"steppe_sparse::{transposed}",
        _fake_transposed,
        lib=_registered,
    )
    space = torch.ops.steppe_sparse
    forward, backward = (getattr(space, each).default for each in (linear, transposed))
    _differentiate(linear, transposed, forward, backward)
    return forward, getattr(space, product).default


def _differentiate(linear: str, transposed: str, forward: Operator, backward: Operator) -> None:
    """Gradients of x and b, and of the gradient itself; the matrix has none."""

    def remember(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, bias, where, values, starts, scale, ctx.rows, ctx.columns = inputs
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(where, values, starts, scale)

    def gradients(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        x = bias = None
        if ctx.needs_input_grad[0]:
            x = backward(g, *ctx.saved_tensors, ctx.rows, ctx.columns)
        if ctx.needs_input_grad[1]:
            bias = g.reshape(g.shape[:-1].numel(), ctx.rows).sum(0).to(ctx.bias_dtype)
        return x, bias, None, None, None, None, None, None

    def remember_matrix(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        _, where, values, starts, scale, ctx.rows, ctx.columns = inputs
        ctx.save_for_backward(where, values, starts, scale)

    def gradient_again(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        again = forward(g, None, *ctx.saved_tensors, ctx.rows, ctx.columns)
        return again, None, None, None, None, None, None

    for each, derivative, remembered in (
        (linear, gradients, remember),
        (transposed, gradient_again, remember_matrix),
    ):
        torch.library.register_autograd(
            f"steppe_sparse::{each}", derivative, setup_context=remembered, lib=_registered
        )


_LAYOUTS = {"bits": BITS, "index": INDEX, "csr": CSR}
_OPERATORS = {name: _register(name, layout) for name, layout in _LAYOUTS.items()}


def _is_cast(dtype: torch.dtype) -> bool:
    """Whether autocast narrows it: float64 stays, and what is no float is refused."""
    return dtype.is_floating_point and dtype != torch.float64


def linear(layout: str, x: Tensor, bias: Tensor | None, matrix: Matrix) -> Tensor:
    """y = x W^T + b by the operator that has the least overhead.

    Args:
        layout: ``bits``, ``index`` or ``csr``.
        x: ``[..., columns]``.
        bias: ``[rows]`` or None.
        matrix: where, values, starts, scale, rows, columns.

    Returns:
        ``[..., rows]`` in x's dtype, under autocast in its own; summed in float32 and rounded once
        where the kernels multiply.
    """
    if not x.is_meta and torch.is_autocast_enabled(x.device.type) and _is_cast(x.dtype):
        x = x.to(torch.get_autocast_dtype(x.device.type))
    differentiable, product = _OPERATORS[layout]
    wanted = torch.is_grad_enabled() and (
        x.requires_grad or (bias is not None and bias.requires_grad)
    )
    return (differentiable if wanted else product)(x, bias, *matrix)
