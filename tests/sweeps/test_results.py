"""Which setting is the best: means over seeds, never one that failed."""

from __future__ import annotations

from typing import Any

from steppe.sweeps.results import Run, Setting, best_of, ranked


def setting(lr: float, *figures: float | None) -> Setting:
    runs: list[Any] = [
        Run(name=f"{lr}-{i}", values={}, figure=figure, state="done" if figure else "failed")
        for i, figure in enumerate(figures)
    ]
    return Setting(values={"train.lr": lr}, runs=tuple(runs))


def test_the_best_mean_of_which_every_seed_is_there() -> None:
    every = [setting(1, 0.9, None), setting(2, 0.5, 0.7), setting(3, 0.65, 0.6), setting(4, None)]
    assert [s.values["train.lr"] for s in ranked(every, higher=True)] == [3, 2, 1, 4]
    assert [s.values["train.lr"] for s in ranked(every, higher=False)] == [2, 3, 1, 4]
    best = best_of(every, higher=True)
    assert best is not None
    assert best.values == {"train.lr": 3}
    assert best_of([setting(1, None)], higher=True) is None
