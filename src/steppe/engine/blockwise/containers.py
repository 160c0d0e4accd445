"""The values inside of arbitrary containers, by their places, and containers with other values."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn


def leaves(value: Any, place: str = "", above: tuple[int, ...] = ()) -> Iterator[tuple[str, Any]]:
    """All values inside of mappings, sequences and objects that carry tensors, with their places.

    Example:
        >>> list(leaves({"a": (1, [2])}))
        [("['a'][0]", 1), ("['a'][1][0]", 2)]
    """
    inside = _inside(value, above)
    if inside is None:
        yield place, value
        return
    for key, child in inside.items():
        yield from leaves(child, place + _step(value, key), (*above, id(value)))


def rebuilt(value: Any, others: Iterator[Any], above: tuple[int, ...] = ()) -> Any:
    """New containers of the same form with other values, in the order of `leaves`.

    Example:
        >>> rebuilt({"a": (1, [2])}, iter("xy"))
        {'a': ('x', ['y'])}
    """
    inside = _inside(value, above)
    if inside is None:
        return next(others)
    within = (*above, id(value))
    new = {key: rebuilt(child, others, within) for key, child in inside.items()}
    if isinstance(value, tuple):
        named = hasattr(value, "_fields")
        return type(value)(*new.values()) if named else type(value)(new.values())
    if isinstance(value, list):
        return type(value)(new.values())
    other = copy.copy(value)
    if isinstance(value, Mapping):
        for key, child in new.items():
            other[key] = child
    else:
        vars(other).update(new)
    return other


def _inside(value: Any, above: tuple[int, ...]) -> Mapping[Any, Any] | None:
    """Key -> value of a container; None for what is none, or contains itself."""
    if id(value) in above:
        return None
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | list):
        return dict(enumerate(value))
    if _carries_tensors(value, ()):
        return dict(vars(value))
    return None


def _carries_tensors(value: Any, above: Sequence[int]) -> bool:
    """Whether an object such as a cache has tensors in its fields, however deep."""
    if isinstance(value, Tensor | nn.Module | type) or not hasattr(value, "__dict__"):
        return False
    return any(_has_tensor(child, (*above, id(value))) for child in vars(value).values())


def _has_tensor(value: Any, above: Sequence[int]) -> bool:
    if isinstance(value, Tensor):
        return True
    if isinstance(value, nn.Module) or id(value) in above:
        return False
    if isinstance(value, Mapping):
        return any(_has_tensor(child, (*above, id(value))) for child in value.values())
    if isinstance(value, tuple | list):
        return any(_has_tensor(child, (*above, id(value))) for child in value)
    return _carries_tensors(value, above)


def _step(value: Any, key: Any) -> str:
    return f"[{key!r}]" if isinstance(value, Mapping | tuple | list) else f".{key}"
