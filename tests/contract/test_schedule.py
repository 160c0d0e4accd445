"""What every schedule fulfils: it rises, and it ends at the target exactly."""

import dataclasses
import itertools

import pytest

from looped import looped
from steppe import Method, SteppeError
from steppe.core.protocols import Schedule

SCHEDULES = list(Schedule.registry)
VARIANTS = [{}, {"start": 0.2, "end": 0.7}, {"every": 7}, {"initial": 0.3}, {"at": 0.4}, {"at": 0}]


def options(name):
    """The variants whose options the schedule knows."""
    fields = {f.name for f in dataclasses.fields(Schedule.registry[name])}
    return [v for v in VARIANTS if v.keys() <= fields]


ALL = [
    pytest.param({"name": name, **given}, id=f"{name}-{given}")
    for name in SCHEDULES
    for given in options(name)
]


@pytest.mark.parametrize("spec", ALL)
@looped(target=[0.0, 0.5, 0.9, 0.95, 0.999])
def test_rises_to_the_target_exactly(spec, target):
    schedule = Schedule.make(spec)
    if spec.get("initial", 0.0) > target:
        pytest.skip("refused by the method")
    values = [schedule.sparsity(i / 500, target) for i in range(501)]
    assert values[-1] == target
    assert all(0.0 <= v <= target for v in values)
    assert all(a <= b for a, b in itertools.pairwise(values))
    assert values == [schedule.sparsity(i / 500, target) for i in range(501)]


@pytest.mark.parametrize("spec", ALL)
def test_clamped_outside_of_the_run(spec):
    schedule = Schedule.make(spec)
    assert schedule.sparsity(-0.5, 0.9) == schedule.sparsity(min(0.0, -1e-9), 0.9)
    assert schedule.sparsity(1.5, 0.9) == 0.9


@pytest.mark.parametrize("spec", ALL)
@looped(total=[1, 2, 7, 100, 333])
def test_after_the_last_choice_the_target_holds(spec, total):
    schedule = Schedule.make(spec)
    assert schedule.after(total - 1, total, 0.9) == 0.9
    chosen = schedule.sparsity(0.0, 0.9)  # the coupling's start
    for step in range(total):
        if schedule.due(step, total):
            now = schedule.after(step, total, 0.9)
            assert now >= chosen
            chosen = now
    assert chosen == 0.9


@pytest.mark.parametrize("name", [n for n in SCHEDULES if {"initial": 0.3} in options(n)])
def test_a_start_above_the_end_is_refused(name):
    with pytest.raises(SteppeError, match="initial"):
        Method(budget={"name": "pooled", "sparsity": 0.2}, schedule={"name": name, "initial": 0.3})
