"""An option is searched for with which an outcome comes out as wanted."""

from __future__ import annotations

import math
from collections.abc import Callable

from steppe.core.errors import SteppeError


def bisect(
    measure: Callable[[float], float],
    target: float,
    low: float,
    high: float,
    *,
    tries: int = 8,
    tolerance: float = 0.01,
) -> list[tuple[float, float]]:
    """Bisection over the logarithm of an option that raises the outcome.

    Args:
        measure: option -> outcome; costs a run. The ends are measured first.
        target: the outcome that is wanted.
        low, high: of the option, both above 0.
        tries: measurements at most, the ends' two among them.
        tolerance: how near is near enough.

    Returns:
        (option, outcome) of every measurement, in their order; the search ends with the first
        that is near enough.

    Raises:
        SteppeError: the range cannot be searched, or the target lies outside what its ends give.

    Example:
        >>> measured = bisect(lambda v: v / 100, 0.5, 1.0, 90.0, tolerance=0.05)
        >>> round(measured[-1][1], 1)
        0.5
    """
    if not 0.0 < low < high < math.inf or tries < 2 or not tolerance > 0.0:
        raise SteppeError(
            "a search needs 0 < low < high, two tries or more and a tolerance above 0",
            got=f"low {low:g}, high {high:g}, tries {tries}, tolerance {tolerance:g}",
        )
    measured: list[tuple[float, float]] = []

    def near(value: float) -> bool:
        measured.append((value, measure(value)))
        return abs(measured[-1][1] - target) <= tolerance

    if near(low) or near(high):
        return measured
    least, most = measured[0][1], measured[1][1]
    if least == most:
        raise SteppeError(
            "the option must change the outcome",
            got=f"{least:.4g} at {low:g} and at {high:g}",
            way_out="another option, or another range",
        )
    if not least < target < most:
        raise SteppeError(
            "the range must hold the target",
            got=f"{target:g}, where {low:g} gives {least:.4g} and {high:g} gives {most:.4g}",
            way_out="a lower --low" if target <= least else "a higher --high",
        )
    while len(measured) < tries:
        middle = math.exp(0.5 * (math.log(low) + math.log(high)))
        if near(middle):
            break
        low, high = (middle, high) if measured[-1][1] < target else (low, middle)
    return measured
