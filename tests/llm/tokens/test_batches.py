"""Batches: a pure function of seed, epoch, position, rank and world."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
import torch
from torch import Tensor

from looped import looped
from steppe.core.errors import SteppeError
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.tokens.packed import Given, PackedText, Source


def text(*counts: int, shares: tuple[float, ...] = (1.0,), held: int = 0) -> PackedText:
    """Windows of three tokens: the number of the text, that of the window, and 7."""
    rows = [torch.tensor([[i, k, 7] for k in range(n)]) for i, n in enumerate(counts)]
    sources = [
        Source(Given(x), held, share, f"{i}.txt")
        for i, (x, share) in enumerate(zip(rows, shares, strict=True))
    ]
    return PackedText(tuple(sources), 3, {})


def rows(batches: TokenBatches, epoch: int, start: int = 0) -> list[tuple[int, ...]]:
    return [tuple(row) for x, _ in batches.epoch(epoch, start) for row in x.tolist()]


def test_an_epoch_is_one_pass_in_another_order_each_time() -> None:
    batches = TokenBatches(text=text(23), batch_size=4)
    assert len(batches) == 5
    first, second = rows(batches, 0), rows(batches, 1)
    assert len(first) == len(set(first)) == 20, "a last batch that is not full is left out"
    assert first != second
    assert first == rows(TokenBatches(text=text(23), batch_size=4), 0)
    assert first != rows(TokenBatches(text=text(23), batch_size=4, seed=1), 0)
    x, y = next(batches.epoch(0))
    assert x.dtype == torch.int64
    assert torch.equal(x, y)


@looped(start=[0, 1, 4, 6])
@pytest.mark.parametrize("mixed", [False, True])
def test_it_starts_in_the_middle_and_reads_nothing_before(start: int, mixed: bool) -> None:
    whole = text(9, 14, shares=(0.25, 0.75)) if mixed else text(9)
    length = 7
    read: list[int] = []

    class Watched(Given):
        def take(self, numbers: Any) -> Tensor:
            read.extend(numbers)
            return super().take(numbers)

    sources = tuple(
        Source(Watched(s.windows.tokens), 0, s.share)  # type: ignore[attr-defined]
        for s in whole.sources
    )
    batches = TokenBatches(text=PackedText(sources, 3, {}), batch_size=3, length=length, seed=5)
    for epoch in (0, 3):
        every = rows(batches, epoch)
        read.clear()
        assert rows(batches, epoch, start) == every[3 * start :]
        assert len(read) == 3 * (length - start)


def test_ranks_share_each_batch() -> None:
    whole = [x for x, _ in TokenBatches(text=text(30), batch_size=6).epoch(2)]
    for world in (2, 3):
        parts = [
            [
                x
                for x, _ in TokenBatches(text=text(30), batch_size=6, rank=rank, world=world).epoch(
                    2
                )
            ]
            for rank in range(world)
        ]
        for batch, *own in zip(whole, *parts, strict=True):
            assert torch.equal(torch.stack(own, 1).flatten(0, 1), batch)


def test_each_text_is_drawn_at_its_share_and_passed_over_evenly() -> None:
    batches = TokenBatches(text=text(10, 50, shares=(0.7, 0.3)), batch_size=4, length=25, seed=2)
    seen: list[tuple[int, ...]] = []
    for epoch in range(4):
        own = rows(batches, epoch)
        assert Counter(row[0] for row in own) == {0: 70, 1: 30}
        seen += own
    times = Counter(seen)
    assert {times[0, k, 7] for k in range(10)} == {28}
    assert {times[1, k, 7] for k in range(50)} <= {2, 3}
    early = Counter(row[0] for row in rows(batches, 0)[:40])
    assert 18 <= early[0] <= 38, "mixed, not one after the other"


def test_without_a_length_no_text_comes_twice_in_an_epoch() -> None:
    batches = TokenBatches(text=text(10, 50, shares=(0.5, 0.5)), batch_size=4)
    assert len(batches) == 5
    assert max(Counter(rows(batches, 0)).values()) == 1


def test_a_pass_goes_on_over_the_end_of_an_epoch() -> None:
    batches = TokenBatches(text=text(10), batch_size=2, length=3)
    seen = [row for epoch in range(5) for row in rows(batches, epoch)]
    assert set(Counter(seen).values()) == {3}


def test_what_is_held_out_is_never_drawn() -> None:
    held = text(12, held=4)
    seen = {row for epoch in range(6) for row in rows(TokenBatches(text=held, batch_size=4), epoch)}
    assert seen == {(0, k, 7) for k in range(8)}
    assert held.held_out()[:, 1].tolist() == [8, 9, 10, 11]


def test_steps_hold_the_tokens_that_are_asked_for() -> None:
    batches = TokenBatches(text=text(50), batch_size=8)
    assert [batches.steps(n) for n in (1, 24, 25, 50_000_000)] == [1, 1, 2, 2_083_334]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"batch_size": 8}, r"8 windows, 24 tokens; got 5 windows, 15 tokens, in 0\.txt.*size 5"),
        ({"batch_size": 8, "length": 9}, "8 windows, 24 tokens; got 5 windows"),
        ({"batch_size": 6, "world": 2}, "--batch-size 4"),
        ({"batch_size": 3, "world": 2}, r"divided among the processes.*--batch-size 4"),
        ({"batch_size": 0}, r"--batch-size 1"),
        ({"batch_size": 6, "world": 6}, "shorter --window"),
    ],
)
def test_a_batch_that_does_not_fit(options: dict[str, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as raised:
        TokenBatches(text=text(5), **options)
    assert "\n" not in str(raised.value)
