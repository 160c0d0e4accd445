"""How a penalty that is a number goes from its start to its end over a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from steppe.core.curves import CURVES

Blend = Callable[[float, float, float], float]


def _along(curve: Callable[[float], float]) -> Blend:
    return lambda start, end, p: start + (end - start) * curve(p)


PENALTIES: Mapping[str, Blend] = MappingProxyType(
    {name: _along(curve) for name, curve in CURVES.items()}
    | {"exponential": lambda start, end, p: start * (end / start) ** p}
)
"""Name -> (start, end, finished share of the run) -> the penalty there.

Example:
    >>> [PENALTIES[name](0.25, 1.0, 0.5) for name in ("linear", "exponential")]
    [0.625, 0.5]
"""
