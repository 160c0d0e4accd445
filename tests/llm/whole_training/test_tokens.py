"""Batches of windows: a pure function of seed, pass, position and rank."""

import pytest
import torch
from safetensors.torch import save_file

from steppe import SteppeError
from steppe.llm.whole_training.tokens import Repeated, TokenBatches, token_windows

WINDOWS = torch.arange(7 * 3).view(7, 3)


def made(**options):
    return TokenBatches(windows=WINDOWS, batch_size=2, **options)


def ids(batches):
    return [x.tolist() for x, _ in batches]


def test_every_window_at_most_once_in_a_pass_and_another_order_in_the_next():
    first, second = ids(made().epoch(0)), ids(made().epoch(1))
    assert len(first) == len(made()) == 3
    rows = [tuple(row) for batch in first for row in batch]
    assert len(set(rows)) == 6
    assert first != second
    assert ids(made(seed=1).epoch(0)) != first


def test_from_any_position_it_goes_on_as_it_would_have():
    for start in range(4):
        assert ids(made().epoch(2, start)) == ids(made().epoch(2))[start:]


def test_ranks_share_each_batch():
    whole = ids(made().epoch(0))
    parts = [ids(made(rank=rank, world=2).epoch(0)) for rank in range(2)]
    assert [[a, b] for (a,), (b,) in zip(*parts, strict=True)] == whole


def test_parts_of_a_run_are_passes_joined_and_cut_elsewhere():
    passes = [batch for number in range(4) for batch in ids(made().epoch(number))]
    parts = Repeated(made(), 5)
    assert [batch for number in range(2) for batch in ids(parts.epoch(number))] == passes[:10]
    assert ids(parts.epoch(1, 3)) == passes[8:10]


def test_token_ids_of_a_file_are_taken_as_they_are(tmp_path):
    file = tmp_path / "ids.safetensors"
    save_file({"tokens": WINDOWS}, file)
    rows, said = token_windows(file, None, 3)
    assert torch.equal(rows, WINDOWS)
    assert said["windows"] == 7
    with pytest.raises(SteppeError, match="--window 3"):
        token_windows(file, None, 4)
