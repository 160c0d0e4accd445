"""Parquet files streamed: a row group is read once by a process, in an order that is random."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import pytest
import torch

from steppe.vision.data import load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.data.row_groups import ParquetFiles
from steppe.vision.loader import Loader


@pytest.fixture
def split(parquet_folder: Any, monkeypatch: pytest.MonkeyPatch) -> StreamedSplit:
    """60 images in 12 groups of 5; a window holds three groups."""
    folder, _ = parquet_folder([i % 2 for i in range(60)], [0, 1], row_group_size=5)
    import pyarrow.parquet as pq

    size = pq.ParquetFile(folder / "train.parquet").metadata.row_group(0).total_byte_size
    monkeypatch.setattr("steppe.vision.data.row_groups.WINDOW_BYTES", int(3.4 * size))
    data = load(str(folder), stream=True, augment="none", say=lambda note: None)
    assert isinstance(data.train, StreamedSplit)
    return data.train


def order(split: StreamedSplit, seed: int) -> torch.Tensor:
    return split.order(torch.Generator().manual_seed(seed))


def test_an_epoch_visits_every_row_once_and_a_few_groups_at_a_time(split: StreamedSplit) -> None:
    assert isinstance(split.pictures.blobs, ParquetFiles)
    assert split.pictures.blobs.window == 3
    groups = set()
    for seed in range(5):
        rows = order(split, seed)
        assert torch.equal(rows.sort().values, torch.arange(60))
        for window in rows.split(15):
            assert len((window // 5).unique()) == 3
            assert not torch.equal(window, window.sort().values)
        groups.add(tuple((rows[:15] // 5).unique().tolist()))
    assert len(groups) > 2, "which groups are beside each other is random too"
    assert torch.equal(order(split, 1), order(split, 1))


def test_a_group_is_read_once_in_an_epoch(
    split: StreamedSplit, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    one = ParquetFiles._read

    def counting(self: ParquetFiles, group: int) -> Any:
        read.append(group)
        return one(self, group)

    monkeypatch.setattr(ParquetFiles, "_read", counting)
    split.pictures.blobs._forget()  # type: ignore[attr-defined] # one was read for its header
    loader = Loader(split, 8, mean=(0.5,) * 3, std=(0.5,) * 3, shuffle=True, workers=0)
    for _ in loader.epoch(0):
        pass
    assert sorted(read) == list(range(12))


def test_a_part_of_the_rows_is_visited_in_such_an_order_too(split: StreamedSplit) -> None:
    part = split.take(torch.arange(0, 60, 2))
    rows = part.rows[order(part, 0)]
    assert torch.equal(rows.sort().values, part.rows)
    for window in rows.split(8):
        assert len((window // 5).unique()) <= 6


def test_images_are_the_same_for_any_number_of_workers_and_in_a_copy(split: StreamedSplit) -> None:
    epochs = [
        torch.cat([
            x for x, _ in
            Loader(split, 8, mean=(0.5,) * 3, std=(0.5,) * 3, shuffle=True, workers=w).epoch(3)
        ])
        for w in (0, 2)
    ]  # fmt: skip
    assert torch.equal(*epochs)
    copied = pickle.loads(pickle.dumps(split.pictures))
    assert copied.of(7, None).tobytes() == split.pictures.of(7, None).tobytes()


def test_small_files_have_the_order_of_images_in_memory(parquet_folder: Any) -> None:
    folder, _ = parquet_folder([0, 1] * 10, [0, 1], row_group_size=5)
    options: dict[str, Any] = {"augment": "none", "mean": (0.5,) * 3, "std": (0.5,) * 3}
    ours, theirs = (
        list(Loader.of(load(str(folder), stream=s, **options), "train", 4).epoch(2))
        for s in (True, False)
    )
    for (x, y), (u, v) in zip(ours, theirs, strict=True):
        assert torch.equal(x, u)
        assert torch.equal(y, v)


def test_rows_are_named_as_their_files_have_them(parquet_folder: Any) -> None:
    folder: Path
    folder, _ = parquet_folder([0, 1, 1], [0, 1], row_group_size=2)
    (folder / "train_more.parquet").write_bytes((folder / "train.parquet").read_bytes())
    split = load(str(folder), stream=True, augment="none").train
    assert isinstance(split, StreamedSplit)
    assert split.pictures.describe(4) == f"row 1 of {folder / 'train_more.parquet'}"
