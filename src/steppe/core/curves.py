"""How a quantity goes from 0 to 1 as a run goes from its start to its end."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

from steppe.core.errors import unknown

CURVES: Mapping[str, Callable[[float], float]] = MappingProxyType(
    {
        "constant": lambda p: 1.0,
        "linear": lambda p: p,
        "cubic": lambda p: 1.0 - (1.0 - p) ** 3,
        "cosine": lambda p: 0.5 * (1.0 - math.cos(math.pi * p)),
    }
)


def curve(name: str, progress: float) -> float:
    """The curve's value at ``progress``, both in [0, 1].

    Args:
        name: ``constant`` (always 1), ``linear``, ``cubic`` (1-(1-p)^3, Zhu & Gupta 2017) or
            ``cosine`` ((1-cos(pi p))/2).
        progress: fraction of the run that is done; clamped to [0, 1].

    Raises:
        SteppeError: the curve is not known.

    Example:
        >>> curve("cubic", 0.5)
        0.875
    """
    if name not in CURVES:
        raise unknown("curve", name, CURVES)
    return CURVES[name](min(max(progress, 0.0), 1.0))
