"""The mutation that keeps the total: one layer goes a level up, another of its size one down."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from steppe.core.protocols import Levels


def switched(
    parent: Levels,
    offers: Mapping[str, Mapping[int, int]],
    groups: Sequence[Sequence[str]],
    draw: random.Random,
) -> Levels:
    """The parent after one to three switches, the smaller of two draws.

    Args:
        parent: layer name -> level.
        offers: layer name -> the levels that it may have.
        groups: names of layers of one size; a larger group is chosen more often.
        draw: where chance comes from.

    Example:
        >>> both = {-1: 40, 0: 50, 1: 60}
        >>> child = switched({"a": 0, "b": 0}, {"a": both, "b": both}, [["a", "b"]],
        ...                  random.Random(1))
        >>> sum(child.values())
        0

    Source: Sieberling et al. 2025, level-switch mutation.
    """
    child = dict(parent)
    for _ in range(min(draw.randint(1, 3), draw.randint(1, 3))):
        group = draw.choices(groups, weights=[len(g) for g in groups])[0]
        down = [n for n in group if child[n] - 1 in offers[n]]
        up = [n for n in group if child[n] + 1 in offers[n]]
        if down and up:
            child[draw.choice(down)] -= 1
            child[draw.choice(up)] += 1
    return child
