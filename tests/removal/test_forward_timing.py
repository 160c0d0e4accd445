"""What surrounds a measurement; no time is asserted."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.removal import forward_timing


def clock(monkeypatch: pytest.MonkeyPatch, milliseconds: list[float]) -> None:
    """Every forward pass takes the next of these, the last for ever."""
    now, left = [0.0], list(milliseconds)
    ends = [False]

    def perf_counter() -> float:
        if ends[0]:
            now[0] += (left.pop(0) if len(left) > 1 else left[0]) / 1000
        ends[0] = not ends[0]
        return now[0]

    monkeypatch.setattr(forward_timing.time, "perf_counter", perf_counter)


def test_median_and_range_of_the_quietest_try(monkeypatch: pytest.MonkeyPatch) -> None:
    loud = [9.0, 20.0, 20.0, 20.0, 20.0, 30.0, 30.0, 40.0, 40.0]
    quiet = [9.6, 9.6, 9.6, 10.0, 10.0, 10.0, 10.2, 10.2, 10.2]
    clock(monkeypatch, [5.0, 5.0, 5.0, *loud, *quiet, 1.0])
    timing_ms = forward_timing.timed(nn.Identity(), torch.zeros(1), repeats=9)
    assert timing_ms == pytest.approx((9.6, 10.0, 0.6))


def test_slow_things_are_repeated_less(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    class Counts(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not torch.is_grad_enabled()
            calls.append(x)
            return x

    for milliseconds, repeats in ((0.001, 15), (49.0, 10), (900.0, 9)):
        clock(monkeypatch, [milliseconds])
        calls.clear()
        forward_timing.timed(Counts(), torch.zeros(1), seconds=0.5)
        assert len(calls) == 3 + repeats


def test_it_says_under_which_conditions() -> None:
    threads = torch.get_num_threads()
    here = forward_timing.conditions(nn.Linear(1, 1).double())
    assert here == {
        "device": forward_timing.processor(),
        "threads": threads,
        "dtype": "float64",
        "layout": "contiguous",
        "torch": torch.__version__,
    }
    images = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    assert forward_timing.conditions(images)["layout"] == "channels last"
    assert forward_timing.processor()
