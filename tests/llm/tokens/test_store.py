"""Shards of tokens: read at any place, whole or refused."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.llm.tokens import store as module
from steppe.llm.tokens.store import TokenStore


def test_any_stretch_is_that_of_all_tokens(tmp_path: Path) -> None:
    everything = torch.randint(0, 1 << 16, (1000,))
    store = TokenStore(tmp_path)
    for part in everything.split([1, 400, 7, 592]):
        store.add(part.numpy())
    draw = random.Random(0)
    for again in (store, TokenStore(tmp_path)):
        assert (again.index.least, again.index.most) == (everything.min(), everything.max())
        for _ in range(200):
            start = draw.randrange(1001)
            length = draw.randrange(1001 - start)
            got = again.read(start, length)
            assert got.dtype == torch.int64
            assert torch.equal(got, everything[start : start + length])


def test_ids_take_two_bytes_or_four(tmp_path: Path) -> None:
    for dtype, width in (("uint16", 2), ("uint32", 4)):
        store = TokenStore(tmp_path / dtype, dtype)
        store.add(np.arange(10_000))
        (shard,) = (tmp_path / dtype).glob("*.safetensors")
        assert 0 <= shard.stat().st_size - 10_000 * width < 200
    store.add(np.array([1 << 20]))
    assert store.read(10_000, 1).item() == 1 << 20


def test_a_shard_that_the_index_does_not_know_is_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = TokenStore(tmp_path)
    store.add(np.arange(5))
    with monkeypatch.context() as killed:
        killed.setattr(module, "write_text", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            store.add(np.arange(7))
    again = TokenStore(tmp_path)
    assert len(again) == 5
    again.add(np.full(3, 9))
    assert again.read(0, 8).tolist() == [0, 1, 2, 3, 4, 9, 9, 9]


def test_damage_is_one_line_whose_way_out_works(tmp_path: Path) -> None:
    store = TokenStore(tmp_path)
    store.add(np.arange(500))
    (shard,) = tmp_path.glob("*.safetensors")
    shard.write_bytes(shard.read_bytes()[:-9])
    with pytest.raises(SteppeError, match=rf"rm -r {tmp_path}"):
        TokenStore(tmp_path).read(0, 5)
    store.clear()
    assert len(store) == len(TokenStore(tmp_path)) == 0
    assert not list(tmp_path.glob("*.safetensors"))
