"""bf16 or channels last only where a measurement says that it is clearly faster."""

import math

import pytest
import torch
from torch import nn

from steppe import SteppeError
from steppe.engine import precision
from steppe.engine.precision import PLAIN, Choice, Setting, bfloat16_ratio, choose, settle

TURNS = precision.turns  # as it is, before a test's fixture replaces it
LAST, LOW, BOTH = Setting("no", True), Setting("bf16", False), Setting("bf16", True)


def times(plain, last, low, both, **more):
    given = {PLAIN: plain, LAST: last, LOW: low, BOTH: both} | more.pop("also", {})
    return {s: ms if isinstance(ms, list) else [ms] * 5 for s, ms in given.items()}


@pytest.mark.parametrize(
    ("measured", "right"),
    [
        (times(10, 10, 10, 10), PLAIN),
        (times(10, 9.5, 9.5, 9.5), PLAIN),  # within the margin
        (times(10, 8, 8, 7.5), LAST),  # bf16 is not clearly ahead of the best in float32
        (times(10, 8, 8, 5), BOTH),
        (times(10, 10, 5, 6), LOW),
        (times(107, 120, 818, 900), PLAIN),  # a processor without bf16
        (times(10, 10, [100], [100]), PLAIN),  # too slow for a second turn
        (times(10, 10, math.inf, math.inf), PLAIN),  # no such kernels
        (times(math.inf, math.inf, 5, 5), LOW),  # memory for bf16 alone
        # one disturbed turn of each decides nothing
        (times([10, 10, 10, 10, 90], [10, 10, 10, 10, 1], 10, 10), PLAIN),
        (times([10, 10, 10, 10, 1], [5, 5, 5, 5, 90], 10, 10), LAST),
        # on a loaded machine the median alone says little
        (times([10, 10, 10, 10, 10], [5, 5, 5, 20, 20], 10, 10), PLAIN),
    ],
)
def test_what_is_clearly_faster_is_chosen(measured, right):
    chosen = choose(measured, "auto", "auto")
    assert Setting(chosen.mixed_precision, chosen.channels_last) == right
    assert "insists" not in chosen.why


def test_who_insists_gets_it_and_is_told_what_it_costs():
    slow = times(107, 107, 818, 900, also={Setting("fp16", False): 500})
    chosen = choose(slow, "bf16", "auto")
    assert chosen.settings == {"mixed_precision": "bf16", "channels_last": False}
    assert chosen.why == (
        "bf16, contiguous: 818 ms a step, 7.6 times as long as float32, contiguous takes here; the "
        "recipe insists, auto would not; float32, contiguous: 107 ms"
    )
    assert chosen.milliseconds["bf16, channels last"] == 900
    assert choose(slow, "fp16", "auto").mixed_precision == "fp16"
    fast = times(10, 10, 10, 5)
    assert choose(fast, "no", False).why.startswith("float32, contiguous: 10 ms a step, 2.0 times")
    assert choose(fast, "bf16", True).why == (
        "bf16, channels last: 5 ms a step; float32, contiguous: 10 ms"
    )
    assert choose(times(10, 20, 10, 10), "auto", True).settings["channels_last"]


def network():
    return nn.Sequential(
        nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(8, 3)
    )


BATCH = (torch.randn(6, 1, 4, 4), torch.arange(6) % 3)


def settled(steps=10**6, asked="auto", layout="auto", model=None):
    return settle(model or network(), BATCH, lambda m, x: m(x), steps, asked, layout)


def test_the_model_and_the_random_numbers_stay_as_they_are(monkeypatch):
    works_run = []

    def turns(works, **_):
        works_run.append([work() for work in works])
        return [[1.0] for _ in works]

    monkeypatch.setattr(precision, "turns", turns)
    model = network()
    before, state = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    assert settled(model=model).milliseconds == {str(s): 1.0 for s in (PLAIN, LAST, LOW, BOTH)}
    assert [len(works) for works in works_run] == [1, 4]
    assert torch.equal(torch.get_rng_state(), state)
    for key, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[key])
        assert tensor.is_contiguous()
    assert all(p.grad is None for p in model.parameters())


def test_a_short_run_is_not_worth_it_and_computes_as_asked():
    assert settled(steps=100) == Choice("no", False, "not measured: the run is short", {})
    assert settled(steps=100, asked="bf16", layout=True).settings == {
        "mixed_precision": "bf16",
        "channels_last": True,
    }


def test_turns_are_paired_end_in_time_and_leave_out_what_is_far_too_slow():
    now = [0.0]

    def work(seconds):
        def run():
            now[0] += seconds

        return run

    def fails():
        raise RuntimeError("no kernel")

    made = TURNS(
        [work(0.01), work(0.02), work(0.5), fails, work(0.01)],
        unless={1: 0, 4: 2},
        clock=lambda: now[0],
    )
    assert [len(own) for own in made] == [9, 9, 1, 1, 1]
    assert made[4] == [math.inf], "not tried"
    assert made[0] == pytest.approx([10.0] * 9)
    assert made[2] == pytest.approx([500.0])
    assert made[3] == [math.inf]
    assert [len(own) for own in TURNS([work(0.9)], clock=lambda: now[0])] == [3]
    assert [len(own) for own in TURNS([work(4.0)], clock=lambda: now[0])] == [1]


def test_bfloat16_of_a_linear_layer(monkeypatch):
    calls = []

    def turns(works):
        calls.append([work() for work in works])
        return [[8.0, 8.0, 8.0], [2.0, 4.0, 4.0]]

    monkeypatch.setattr(precision, "turns", turns)
    assert bfloat16_ratio("cpu", 3, 4) == 1.0, "too small to tell"
    assert bfloat16_ratio("cpu", 1000, 120) == 2.0
    assert len(calls[0]) == 2


def test_a_choice_is_written_and_read():
    chosen = choose(times(10, 8, 8, 5), "auto", "auto")
    assert Choice.read(chosen.record()) == chosen
    for wrong in ({}, {"mixed_precision": "int3"}, chosen.record() | {"mixed_precision": "x"}):
        with pytest.raises(SteppeError, match="the precision that a run began with"):
            Choice.read(wrong)
