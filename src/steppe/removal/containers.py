"""Tensors inside whatever a model takes or returns."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Set
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_PLAIN = (str, bytes, bool, int, float, complex, type(None), torch.dtype, torch.device)


def tensors_of(tree: Any, consume: bool = False) -> list[Tensor]:
    """All tensors inside nested lists, tuples, sets, mappings, dataclasses and other objects.

    An object counts with its attributes, however deep, an array of numpy as a tensor; modules,
    functions and the caches of decoders, which only the next call reads, are left out.

    Args:
        tree: anything.
        consume: also what iterators and generators give, which is used up thereby.

    Example:
        >>> from types import SimpleNamespace
        >>> answer = SimpleNamespace(logits=torch.ones(1), maps=[{"a": torch.zeros(2)}])
        >>> [t.tolist() for t in tensors_of(answer)]
        [[1.0], [0.0, 0.0]]
    """
    return list(_walk(tree, set(), consume))


def _walk(tree: Any, seen: set[int], consume: bool) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
        return
    if isinstance(tree, np.ndarray) and tree.dtype.kind in "biufc":
        yield torch.from_numpy(tree.copy())
        return
    if isinstance(tree, _PLAIN) or id(tree) in seen:
        return
    seen.add(id(tree))  # an object may hold itself
    branches = list(tree) if consume and isinstance(tree, Iterator) else _branches(tree)
    for branch in branches:
        yield from _walk(branch, seen, consume)


def _branches(tree: Any) -> list[Any]:
    """What lies directly in an object."""
    if isinstance(tree, Mapping):
        return list(tree.values())
    if isinstance(tree, list | tuple | Set):
        return list(tree)
    kind = type(tree)
    if isinstance(tree, type | nn.Module) or callable(tree) or kind.__name__.endswith("Cache"):
        return []
    slots = [name for base in kind.__mro__ for name in _slots(base)]
    attributes = dict(getattr(tree, "__dict__", {}))
    attributes |= {name: getattr(tree, name) for name in slots if hasattr(tree, name)}
    if not attributes and hasattr(tree, "__len__") and hasattr(tree, "__getitem__"):
        return [tree[i] for i in range(len(tree))]  # a deque, or a sequence of another package
    return list(attributes.values())


def _slots(kind: type) -> tuple[str, ...]:
    slots = kind.__dict__.get("__slots__", ())
    names = (slots,) if isinstance(slots, str) else tuple(slots)
    return tuple(name for name in names if name not in ("__dict__", "__weakref__"))


def map_tensors(tree: Any, change: Any) -> Any:
    """The same lists, tuples and mappings with every tensor changed; other things as they are."""
    if isinstance(tree, Tensor):
        return change(tree)
    if isinstance(tree, Mapping):
        return {key: map_tensors(value, change) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):  # a named tuple
        return type(tree)(*(map_tensors(value, change) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(map_tensors(value, change) for value in tree)
    return tree
