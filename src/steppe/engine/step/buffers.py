"""A model's buffers, put back as they were: what a second pass moves leaves no trace."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

LARGE = 1 << 16
"""Entries of a buffer from which on it is watched instead of copied at every step."""


class Buffers:
    """Keeps buffers: running statistics of any norm, observers, counters, codebooks, queues.

    Every buffer is copied before the pass and restored after it, whatever module it belongs to and
    whether it is changed in place or replaced. A large one that a pass left alone (a causal mask, a
    table of positions) is not copied again until something writes to it: its last copy is kept.
    """

    def __init__(self) -> None:
        self._still: dict[int, tuple[Tensor, int, Tensor]] = {}
        self._backup: list[Tensor] = []

    def watch(self, model: nn.Module) -> None:
        """Look at the frozen parameters before the first pass."""
        self._marks = {id(p): _mark(p) for p in _frozen(model)}

    @contextmanager
    def kept(self, model: nn.Module) -> Iterator[None]:
        """Within it buffers may move; after it they are as before, the same tensors."""
        owners = [(m._buffers, dict(m._buffers)) for m in model.modules() if m._buffers]
        tensors = {id(t): t for _, named in owners for t in named.values() if t is not None}
        self._still = {i: seen for i, seen in self._still.items() if i in tensors}
        changeable = [t for t in tensors.values() if not is_lazy(t) and _may_change(t)]
        moving = [t for t in changeable if _is_plain(t) and not self._rests(t)]
        moving += [
            p
            for p in _frozen(model)
            if _is_plain(p) and (p.numel() <= LARGE or self._marks.get(id(p)) != _mark(p))
        ]
        others = [(t, t.detach().clone()) for t in changeable if not _is_plain(t)]
        self._copy(moving)
        try:
            yield
        finally:
            self._restore(moving)
            with torch.no_grad():
                for tensor, version, copy in list(self._still.values()):
                    if tensor._version != version:  # it rested until this pass
                        tensor.copy_(copy)
                        del self._still[id(tensor)]
                for tensor, copy in others:
                    tensor.copy_(copy)
            for registered, before in owners:
                same = (registered.get(name) is t for name, t in before.items())
                if len(registered) != len(before) or not all(same):
                    registered.clear()
                    registered.update(before)

    def _rests(self, tensor: Tensor) -> bool:
        """Whether it stood still in an earlier pass and nothing wrote to it since."""
        seen = self._still.get(id(tensor))
        return seen is not None and seen[0] is tensor and seen[1] == tensor._version

    @torch.no_grad()
    def _copy(self, moving: list[Tensor]) -> None:
        like = [(t.shape, t.dtype, t.device) for t in moving]
        if like != [(t.shape, t.dtype, t.device) for t in self._backup]:
            self._backup = [torch.empty_like(t) for t in moving]
        if moving:
            torch._foreach_copy_(self._backup, moving)

    @torch.no_grad()
    def _restore(self, moving: list[Tensor]) -> None:
        for tensor, before in zip(moving, self._backup, strict=True):
            if tensor.shape != before.shape:
                tensor.resize_(before.shape)
            if tensor.numel() <= LARGE:
                continue
            self._still.pop(id(tensor), None)
            if torch.equal(tensor, before):
                self._still[id(tensor)] = (tensor, tensor._version, before.clone())
        rest = [pair for pair in zip(moving, self._backup, strict=True) if not self._rests(pair[0])]
        if rest:
            torch._foreach_copy_([t for t, _ in rest], [b for _, b in rest])


def _frozen(model: nn.Module) -> list[nn.Parameter]:
    """What no gradient moves, but perhaps a forward pass."""
    return [
        p
        for p in model.parameters()
        if not (p.requires_grad or is_lazy(p) or p.is_inference() or p.is_meta)
    ]


def _mark(parameter: nn.Parameter) -> tuple[int, int]:
    """Changes when a parameter is written to, or gets other data."""
    own = getattr(parameter, "_local_tensor", parameter)  # of a sharded one
    return parameter._version, own.data_ptr() if own.layout == torch.strided else 0


def _may_change(tensor: Tensor) -> bool:
    """Whether it can be written to in place; one that cannot is only ever replaced."""
    if tensor.is_inference():
        return False
    if tensor.layout != torch.strided or tensor.is_nested:
        return True
    repeats = (
        step == 0 < size - 1 for step, size in zip(tensor.stride(), tensor.shape, strict=True)
    )
    return not any(repeats)


def _is_plain(tensor: Tensor) -> bool:
    """Whether many such can be copied at once, and be compared."""
    special = tensor.is_nested or tensor.is_conj() or tensor.is_neg()
    return tensor.layout == torch.strided and not special


def restored_buffers(model: nn.Module) -> AbstractContextManager[None]:
    """Within it the model's buffers may move; after it they are as before.

    Example:
        >>> bn = nn.BatchNorm1d(2)
        >>> with restored_buffers(bn): _ = bn(torch.randn(8, 2))
        >>> int(bn.num_batches_tracked)
        0
    """
    return Buffers().kept(model)
