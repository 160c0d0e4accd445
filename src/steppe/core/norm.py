"""One global L2 norm over many tensors, of any kind."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import cast

import torch
from torch import Tensor, nn


def global_norm(tensors: Sequence[Tensor]) -> Tensor:
    """sqrt(sum over all tensors of ||t||^2), one scalar tensor, without a sync.

    Sums in float32 at least; sharded tensors (FSDP) are summed over the ranks. A complex entry
    counts with its absolute value, a sparse tensor with the sums of its duplicate entries. On
    several devices the norm lies on that of the first tensor.

    Example:
        >>> float(global_norm([torch.tensor([3.0]), torch.tensor([[4.0]])]))
        5.0
        >>> float(global_norm([torch.tensor([3.0 + 4.0j])]))
        5.0
    """
    norms = torch._foreach_norm([_wide(t) for t in tensors])
    there = norms[0].device
    total: Tensor = torch.stack([n.float().to(there) for n in norms]).norm()
    full = getattr(total, "full_tensor", None)
    return total if full is None else cast(Tensor, full())


def _wide(t: Tensor) -> Tensor:
    """Real, dense, and of a type in which squares can be summed."""
    if t.layout != torch.strided:
        t = t.coalesce().values() if t.is_sparse else t.values()
    if t.is_complex():
        t = torch.view_as_real(t.resolve_conj())
    return t if t.dtype in (torch.float32, torch.float64) else t.float()


def squares_of(t: Tensor) -> Tensor:
    """|t|^2 of each entry, real and in float32 at least, so that they do not overflow.

    Example:
        >>> squares_of(torch.tensor([3.0 + 4.0j]))
        tensor([25.])
    """
    return t.abs().to(torch.promote_types(t.real.dtype, torch.float32)).square()


def scaled(tensors: Sequence[Tensor], factor: Tensor) -> list[Tensor]:
    """Each tensor times one scalar; new tensors, each on its own device.

    Example:
        >>> scaled([torch.ones(2)], torch.tensor(0.5))
        [tensor([0.5000, 0.5000])]
    """
    if all(t.device == factor.device for t in tensors):
        return list(torch._foreach_mul(list(tensors), factor))
    return [t * factor.to(t.device) for t in tensors]


def scale_(tensors: Sequence[Tensor], factor: Tensor) -> None:
    """`scaled`, in place."""
    if all(t.device == factor.device for t in tensors):
        torch._foreach_mul_(list(tensors), factor)
        return
    for t in tensors:
        t.mul_(factor.to(t.device))


@torch.no_grad()
def clip_grad_norm(params: Iterable[Tensor], largest: float) -> None:
    """Shrink all gradients together until their L2 norm is at most ``largest``.

    As ``torch.nn.utils.clip_grad_norm_``, bit for bit, wherever that works. Beyond it: sparse
    gradients, and float16 ones whose norm has no float16.

    Args:
        params: whose gradients are clipped, in place; those without one are passed over.
        largest: the norm allowed.

    Example:
        >>> p = nn.Parameter(torch.zeros(2)); p.grad = torch.tensor([3.0, 4.0])
        >>> clip_grad_norm([p], 1.0); p.grad
        tensor([0.6000, 0.8000])
    """
    params = [p for p in params if p.grad is not None]
    grads = [p.grad for p in params if p.grad is not None]
    sparse = any(g.layout != torch.strided for g in grads)
    if not sparse and all(g.dtype != torch.float16 for g in grads):
        nn.utils.clip_grad_norm_(params, largest)
        return
    total = global_norm(grads)
    if not sparse:
        theirs = nn.utils.get_total_norm(grads)
        total = torch.where(theirs.isfinite(), theirs.to(total.dtype), total.to(theirs.device))
        nn.utils.clip_grads_with_norm_(params, largest, total)
        return
    factor = (largest / (total + 1e-6)).clamp(max=1.0)
    for p in params:
        assert p.grad is not None
        p.grad = p.grad.coalesce() if p.grad.is_sparse else p.grad
        values = p.grad.values() if p.grad.layout != torch.strided else p.grad
        values.mul_(factor.to(values.device))
