"""How many units stay where `keep` says it."""

from __future__ import annotations

import pytest

from steppe import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Structure
from steppe.structure.units import Units

NEURONS = Layer("down.weight", (16, 20), reads="neurons")
HEADS = Layer("o.weight", (16, 24), reads="heads", unit=4)


def test_keep_says_how_many_units_stay_whatever_the_sparsity() -> None:
    both = Units(of=("neurons", "heads"), keep=(("neurons", 13), ("heads", 6)), round_to=4)
    for sparsity in (0.1, 0.9):
        assert both.count(NEURONS, sparsity) == 7
        assert both.count(HEADS, sparsity) == 0
    one = Units(of=("neurons", "heads"), keep=(("heads", 1),))
    assert one.count(HEADS, 0.5) == 5
    assert one.count(NEURONS, 0.5) == 10


def test_a_structure_that_keeps_is_plain_data() -> None:
    made = Structure.make({"name": "units", "of": ["heads"], "keep": [["heads", 3]]})
    assert made == Units(of=("heads",), keep=(("heads", 3),))
    assert Structure.make(made.to_dict()) == made
    assert hash(made) == hash(Units(of=("heads",), keep=(("heads", 3),)))


@pytest.mark.parametrize(
    "keep",
    [
        [["heads", 3]],
        [["neurons", 0]],
        [["neurons", 1.5]],
        [["neurons", 3], ["neurons", 4]],
        [["neurons"]],
        [["neurons", "3"]],
    ],
)
def test_what_keep_cannot_say_is_refused(keep: list[list[object]]) -> None:
    with pytest.raises(SteppeError, match="how many units stay"):
        Structure.make({"name": "units", "of": ["neurons"], "keep": keep})


def test_no_more_stay_than_there_are() -> None:
    with pytest.raises(SteppeError, match=r"21 neurons, of 20 in down\.weight"):
        Units(keep=(("neurons", 21),)).count(NEURONS, 0.5)
