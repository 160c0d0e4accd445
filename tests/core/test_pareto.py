from __future__ import annotations

import random

from steppe.core.pareto import dominators


def test_what_is_left_is_what_nothing_is_better_than() -> None:
    """Brute force on points of a small grid, where ties are many."""
    draw = random.Random(0)
    for size in (1, 2, 3, 4) * 25:
        points = {
            str(i): tuple(float(draw.randrange(4)) for _ in range(size))
            for i in range(draw.randrange(1, 12))
        }
        found = dominators(points)
        for name, own in points.items():
            better = {
                other
                for other, its in points.items()
                if its != own and all(a <= b for a, b in zip(its, own, strict=True))
            }
            assert (name in found) == bool(better)
            if better:
                assert found[name] in better
                assert found[name] not in found, "who is named is dominated by none"


def test_equal_points_stand_side_by_side() -> None:
    assert dominators({"a": (1.0, 2.0), "b": (1.0, 2.0)}) == {}
