"""Networks are timed in turns by a clock that can be given, and left as they were."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

from steppe.engine.model_latency import LEAST_TURNS, TURNS, compare, in_turns


class Clock:
    """A clock that goes on by what the work says."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def work(
        self, name: str, seconds: Callable[[int], float], said: list[str]
    ) -> Callable[[], None]:
        def run() -> None:
            self.now += seconds(said.count(name))
            said.append(name)

        return run


def test_each_turn_has_one_of_each_and_every_other_goes_the_other_way() -> None:
    clock, said = Clock(), list[str]()
    works = [clock.work("a", lambda i: 0.001 * i, said), clock.work("b", lambda i: 0.002, said)]
    a, b = in_turns(works, 4, clock=clock)
    assert [round(ms, 6) for ms in a] == [3, 4, 5, 6], "three turns of warm-up do not count"
    assert [round(ms, 6) for ms in b] == [2] * 4
    turns = ["".join(said[i : i + 2]) for i in range(0, len(said), 2)]
    assert turns == ["ba", "ab"] * 3 + ["ba"]


def test_slow_networks_are_timed_less_often() -> None:
    for seconds, turns in ((0.001, TURNS), (5.0, LEAST_TURNS), (0.7, 12)):
        clock, said = Clock(), list[str]()
        works = [clock.work(name, lambda i, s=seconds: s, said) for name in "ab"]  # type: ignore[misc]
        assert [len(own) for own in in_turns(works, clock=clock)] == [turns, turns]


def test_networks_keep_their_mode_and_a_claim_needs_a_reason() -> None:
    clock = Clock()

    class Takes(nn.Module):
        def __init__(self, seconds: float) -> None:
            super().__init__()
            self.seconds = seconds

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            assert not self.training
            assert not torch.is_grad_enabled()
            clock.now += self.seconds
            return x

    slow, fast = Takes(0.004), Takes(0.001).eval()
    speed = compare(slow, fast, torch.zeros(1), "channels are removed", clock)
    assert (round(speed.dense_ms, 6), round(speed.sparse_ms, 6)) == (4.0, 1.0)
    assert speed.claimed
    assert not compare(slow, fast, torch.zeros(1), clock=clock).claimed
    assert slow.training
    assert not fast.training
