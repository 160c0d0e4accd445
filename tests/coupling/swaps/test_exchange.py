"""Exchanges, one by one beside a search through all pairs in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steppe.coupling.swaps.exchange import exchanged

COLUMNS, ROWS = 12, 6


def posed(seed: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """G, weights and a mask that keeps half of each group."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(60, 4, generator=generator) @ torch.randn(4, COLUMNS, generator=generator)
    x += 0.3 * torch.randn(60, COLUMNS, generator=generator)
    weight = torch.randn(ROWS, COLUMNS, generator=generator)
    size = group if group > 1 else COLUMNS
    order = torch.rand(ROWS, COLUMNS // size, size, generator=generator).argsort(-1)
    return x.T @ x / len(x), weight, (order < size // 2).flatten(1)


def searched(
    gram: Tensor, dense: Tensor, start: Tensor, mask: Tensor, swaps: int, group: int
) -> list[tuple[int, int]]:
    """The pairs (pruned, restored) of a row, in order, each by the error itself."""
    gram, dense, w, kept = gram.double(), dense.double(), start.double().clone(), mask.clone()
    sequence = []

    def error(w: Tensor) -> float:
        return float((dense - w) @ gram @ (dense - w))

    for _ in range(swaps):
        best, pair, now = 0.0, None, error(w)
        for p in kept.nonzero()[:, 0].tolist():
            for q in (~kept).nonzero()[:, 0].tolist():
                if group > 1 and p // group != q // group:
                    continue
                other = w.clone()
                other[p], other[q] = 0.0, dense[q]
                if error(other) - now < best - 1e-12:
                    best, pair = error(other) - now, (p, q)
        if pair is None:
            break
        p, q = pair
        w[p], w[q], kept[p], kept[q] = 0.0, dense[q], False, True
        sequence.append(pair)
    return sequence


@pytest.mark.parametrize("group", [1, 4])
@pytest.mark.parametrize("moved", [False, True])
def test_each_exchange_is_the_best_there_is(group: int, moved: bool) -> None:
    """Also from weights that a solver changed; the sequence is that of a brute-force search."""
    lengths = []
    for seed in range(4):
        gram, dense, mask = posed(seed, group)
        start = dense * mask * (1.2 if moved else 1.0)
        sequences = [
            searched(gram, dense[r], start[r], mask[r], COLUMNS, group) for r in range(ROWS)
        ]
        lengths += [len(s) for s in sequences]
        for swaps in range(max(len(s) for s in sequences) + 2):
            w, kept = exchanged(gram, dense, start, mask, swaps, group)
            for r, sequence in enumerate(sequences):
                expected, weight = mask[r].clone(), start[r].clone()
                for p, q in sequence[:swaps]:
                    expected[p], expected[q], weight[p], weight[q] = False, True, 0.0, dense[r, q]
                assert torch.equal(kept[r], expected), (seed, r, swaps)
                assert torch.equal(w[r], weight)
    assert max(lengths) >= 2, "some rows need more than one exchange"


@pytest.mark.parametrize("group", [1, 4])
def test_counts_hold_and_errors_fall(group: int) -> None:
    gram, dense, mask = posed(7, group)
    start = dense * mask
    before = ((dense - start) @ gram * (dense - start)).sum(1)
    w, kept = exchanged(gram, dense, start, mask, 100, group)
    after = ((dense - w) @ gram * (dense - w)).sum(1)
    assert (after <= before).all()
    assert (after < before).any()
    size = group if group > 1 else COLUMNS
    for a, b in ((kept, mask), (w != 0, mask)):
        counted = [x.view(ROWS, -1, size).sum(-1) for x in (a, b)]
        assert torch.equal(*counted)
    assert torch.equal(start, dense * mask), "what was given is as it was"


def test_what_is_gone_does_not_come_back() -> None:
    gram, dense, mask = posed(3, 1)
    gone = ~mask & (torch.arange(COLUMNS) % 2 == 0)
    _, kept = exchanged(gram, dense, dense * mask, mask, 100, gone=gone)
    assert not (kept & gone).any()
    assert not torch.equal(kept, mask)
