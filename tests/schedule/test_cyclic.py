"""Trainings one after another: their lengths, their cuts, the clock."""

import pytest

from steppe import SteppeError
from steppe.schedule.cyclic import Cyclic, once_or_cyclic
from steppe.schedule.one_shot import OneShot


@pytest.mark.parametrize("total", [60, 61, 65, 300])
def test_equal_trainings(total):
    schedule, length = Cyclic(cycles=6), total // 6
    first = total - 5 * length
    cuts = [step + 1 for step in range(total) if schedule.due(step, total)]
    assert cuts == [first + k * length for k in range(5)]
    starts = [0, *cuts]
    for step in range(total):
        begun = max(s for s in starts if s <= step)
        expected = first if begun == 0 else length
        assert schedule.clock(step, total) == (step - begun, expected)


def test_the_same_share_of_what_remains_goes():
    schedule = Cyclic(cycles=26)
    target = 1 - 0.8**25
    kept = [1 - schedule.after(step, 260, target) for step in range(260) if schedule.due(step, 260)]
    assert len(kept) == 25
    for level, share in enumerate(kept, 1):
        assert share == pytest.approx(0.8**level, rel=1e-12)
    assert schedule.after(258, 260, target) == target


def test_rewound_to_an_early_step():
    """Later trainings begin at the anchor, and learning rate and data with them."""
    schedule, total = Cyclic(cycles=4, to=0.25), 100 + 3 * 75
    assert schedule.anchor(total) == 25
    cuts = [step + 1 for step in range(total) if schedule.due(step, total)]
    assert cuts == [100, 175, 250]
    assert [schedule.clock(s, total) for s in (0, 99, 100, 174, 175, 324)] == [
        (0, 100), (99, 100), (25, 100), (99, 100), (25, 100), (99, 100),
    ]  # fmt: skip


def test_without_rewinding_there_is_one_clock():
    schedule = Cyclic(cycles=4, rewind="nothing")
    assert schedule.rewinds == ""
    assert all(schedule.clock(step, 80) == (step, 80) for step in range(80))


@pytest.mark.parametrize("given", [{"cycles": 1}, {"to": 1.0}, {"to": -0.1}, {"rewind": "data"}])
def test_wrong_options(given):
    with pytest.raises(SteppeError):
        Cyclic(**given)


@pytest.mark.parametrize("cycles", [2.5, 1, -1, "3"])
def test_cycles_are_a_whole_number_from_two(cycles):
    with pytest.raises(SteppeError, match="two cycles or more"):
        Cyclic(cycles=cycles)


def test_a_single_cut_or_several():
    assert once_or_cyclic(1, "rate", 0.5) == OneShot(at=0.5)
    assert once_or_cyclic(3, "weights", 1.0) == Cyclic(cycles=3, rewind="weights")
    with pytest.raises(SteppeError, match="leave one of them out"):
        once_or_cyclic(3, "rate", 0.5)
    with pytest.raises(SteppeError, match="two cycles"):
        once_or_cyclic(0, "rate", 1.0)
