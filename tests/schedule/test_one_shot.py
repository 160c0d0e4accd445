"""All at once, exactly once."""

import pytest

from steppe import SteppeError
from steppe.schedule.one_shot import OneShot


@pytest.mark.parametrize("at", [0.0, 0.1, 0.3, 1 / 3, 0.5, 0.7, 1.0])
@pytest.mark.parametrize("total", [1, 3, 10, 1000])
def test_due_once(at, total):
    schedule = OneShot(at=at)
    due = [t for t in range(total) if schedule.due(t, total)]
    assert len(due) == (0 if at == 0 else 1)  # at 0 the coupling's start does it
    for t in range(total):
        after = schedule.after(t, total, 0.9)
        assert after == (0.9 if not due or t >= due[0] else 0.0)


@pytest.mark.parametrize("at", [-0.1, 1.1])
def test_outside_of_the_run(at):
    with pytest.raises(SteppeError, match="one_shot"):
        OneShot(at=at)
