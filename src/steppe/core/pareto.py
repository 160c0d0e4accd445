"""Which points are worth a look: those that no other one is better than in everything."""

from __future__ import annotations

from collections.abc import Mapping

Point = tuple[float, ...]
"""What is to be as low as possible, each."""


def dominators(points: Mapping[str, Point]) -> dict[str, str]:
    """Point -> one that is nowhere worse and somewhere better; points without one are left out.

    q dominates p when q_i <= p_i for all i and q_i < p_i for one.

    Of several, the one that is lowest in the first number, which none dominates itself.

    Args:
        points: name -> numbers, lower is better.

    Example:
        >>> dominators({"dense": (5.0, 9.0), "wanda": (7.0, 6.0), "slim": (6.0, 6.0)})
        {'wanda': 'slim'}
    """
    return {
        name: min(better, key=lambda other: points[other])
        for name, own in points.items()
        if (better := [other for other, its in points.items() if _dominates(its, own)])
    }


def _dominates(one: Point, other: Point) -> bool:
    return one != other and all(a <= b for a, b in zip(one, other, strict=True))
