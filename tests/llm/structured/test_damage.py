"""What a shape will cost, from a few that were measured."""

from __future__ import annotations

import pytest

from steppe.llm.structured.damage import Damage, levels, most_promising
from steppe.llm.structured.shape import Shape

WHOLE = Shape(
    blocks=6, neurons=20, heads=4, queries_per_key=1, head_size=6, hidden=12, vocabulary=26
)
KNOWN = Damage(
    3.0,
    {
        "blocks": {6: 3.0, 5: 3.1, 4: 3.5},
        "neurons": {20: 3.0, 15: 3.2, 10: 3.6},
        "heads": {4: 3.0, 2: 3.4},
    },
)


def test_what_each_kind_costs_adds_up() -> None:
    assert KNOWN.foretold(WHOLE) == 3.0
    for kind, known in KNOWN.alone.items():
        for number, loss in known.items():
            assert KNOWN.foretold(WHOLE.resized(**{kind: number})) == pytest.approx(loss)
    both = WHOLE.resized(blocks=5, neurons=12, heads=3)
    assert KNOWN.foretold(both) == pytest.approx(3.0 + 0.1 + (0.2 + 0.6 * 0.4) + 0.2)
    # beyond what was measured the line goes on
    assert KNOWN.of("neurons", 5) == pytest.approx(1.0)


def test_what_is_tried_next_is_corrected_by_its_depth() -> None:
    offers = [
        WHOLE.resized(blocks=6, neurons=10),  # 3.6
        WHOLE.resized(blocks=6, neurons=11, heads=3),  # 3.72
        WHOLE.resized(blocks=5, neurons=12),  # 3.54
        WHOLE.resized(blocks=5, neurons=13, heads=3),  # 3.66
    ]
    assert most_promising(offers, KNOWN, {}) is offers[2]
    better, worse = {offers[2]: 3.4}, {offers[2]: 3.7}
    assert most_promising(offers, KNOWN, better) is offers[3]
    assert most_promising(offers, KNOWN, worse) is offers[0]
    assert most_promising(offers, KNOWN, dict.fromkeys(offers, 3.0)) is None


@pytest.mark.parametrize("count", [1, 2, 3, 7])
def test_levels_are_numbers_that_may_be(count: int) -> None:
    numbers = [1, 2, 4, 5, 8, 10]
    found = levels(numbers, 2, count)
    assert found[0] == 2
    assert set(found) <= set(numbers[1:-1])
    assert len(found) <= count
    assert levels(numbers, 10, count) == []
