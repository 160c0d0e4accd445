"""Parquet files behind a URL, streamed without a download: fsspec's memory and file:// stand in."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.data import ImageData, load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.data.places import Elsewhere
from steppe.vision.data.row_groups import ParquetFiles
from steppe.vision.loader import Loader

fsspec = pytest.importorskip("fsspec")


@pytest.fixture
def memory() -> Iterator[Any]:
    """A file system that nothing else is in."""
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()


@pytest.fixture
def folder(parquet_folder: Any) -> Path:
    """60 images in 12 groups of 5."""
    path: Path = parquet_folder([i % 2 for i in range(60)], [0, 1] * 5, row_group_size=5)[0]
    return path


def copied(folder: Path, memory: Any, names: dict[str, str]) -> None:
    for part, name in names.items():
        memory.pipe(name, (folder / f"{part}.parquet").read_bytes())


def opened(name: str | Path, **options: Any) -> ImageData:
    usual: dict[str, Any] = {
        "stream": True,
        "augment": "none",
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
    }
    return load(str(name), say=lambda note: None, **(usual | options))


def epoch(data: ImageData, workers: int = 0, part: str = "train") -> Tensor:
    return torch.cat([x for x, _ in Loader.of(data, part, 6, seed=3, workers=workers).epoch(1)])


def blobs(data: ImageData) -> ParquetFiles:
    assert isinstance(data.train, StreamedSplit)
    found = data.train.pictures.blobs
    assert isinstance(found, ParquetFiles)
    return found


def small_windows(monkeypatch: pytest.MonkeyPatch, folder: Path) -> int:
    """A window then holds three groups; the bytes of one."""
    size = pq.ParquetFile(folder / "train.parquet").metadata.row_group(0).total_byte_size
    monkeypatch.setattr("steppe.vision.data.row_groups.WINDOW_BYTES", int(3.4 * size))
    return int(size)


@pytest.mark.parametrize("workers", [0, 2])
def test_the_images_are_those_of_the_files(folder: Path, memory: Any, workers: int) -> None:
    copied(folder, memory, {p: f"/set/data/{p}-00000-of-00001.parquet" for p in ("train", "test")})
    data = opened("memory://set")
    assert torch.equal(data.train.labels, opened(folder).train.labels)
    for part in ("train", "test"):
        assert torch.equal(epoch(data, workers, part), epoch(opened(folder), 0, part))


def test_they_may_be_decoded_into_memory_too(folder: Path, memory: Any, tmp_path: Path) -> None:
    copied(folder, memory, {p: f"/set/{p}.parquet" for p in ("train", "test")})
    cache: dict[str, Any] = {"stream": False, "cache": tmp_path / "cache"}
    images = opened("memory://set", **cache).train.images  # type: ignore[attr-defined]
    assert torch.equal(images, opened(folder, stream=False).train.images)  # type: ignore[attr-defined]
    assert len(list((tmp_path / "cache").iterdir())) == 2
    opened("memory://set", **cache)
    assert len(list((tmp_path / "cache").iterdir())) == 2, "what is stored there has a key"


def test_worker_processes_fetch_a_group_once_together(
    folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    small_windows(monkeypatch, folder)
    log = tmp_path / "fetched"
    group = Elsewhere.group

    def counting(self: Elsewhere, name: str, read: Callable[[], Any]) -> Any:
        def noted() -> Any:
            with log.open("a") as file:
                file.write(f"{name}\n")
            return read()

        return group(self, name, noted)

    data = opened(f"file://{folder}")
    expected = epoch(opened(folder))
    blobs(data).place.folder = str(tmp_path)  # type: ignore[attr-defined] # nothing is there yet
    monkeypatch.setattr(Elsewhere, "group", counting)
    assert torch.equal(epoch(data, workers=3), expected)
    file = folder / "train.parquet"
    assert sorted(log.read_text().split()) == sorted(f"{file}:{i}" for i in range(12))


def test_the_folder_of_what_was_fetched_stays_small_and_goes(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small_windows(monkeypatch, folder)
    data = opened(f"file://{folder}")
    place = blobs(data).place
    assert isinstance(place, Elsewhere)
    kept = Path(place.folder)
    one = max(path.stat().st_size for path in kept.glob("*.arrow"))
    monkeypatch.setattr("steppe.vision.data.places.SPOOL_BYTES", int(2.5 * one))
    assert torch.equal(epoch(data, workers=2), epoch(opened(folder)))
    assert sum(path.stat().st_size for path in kept.glob("*.arrow")) <= 2.5 * one
    copy = pickle.loads(pickle.dumps(place))
    assert copy.folder == place.folder
    del copy
    gc.collect()
    assert kept.exists(), "a copy takes nothing away"
    del data, place
    gc.collect()
    assert not kept.exists()


def test_splits_may_be_folders_as_the_hub_converts_them(folder: Path, memory: Any) -> None:
    names = {part: f"/set/default/{part}/0000.parquet" for part in ("train", "test")}
    copied(folder, memory, names)
    assert len(opened("memory://set").train) == 60
    memory.pipe("/set/other/train/0000.parquet", (folder / "train.parquet").read_bytes())
    with pytest.raises(SteppeError, match="must hold one configuration"):
        opened("memory://set")
    assert len(opened("memory://set/default").test) == 10


def test_what_cannot_be_reached_is_told_in_one_line(folder: Path, memory: Any) -> None:
    copied(folder, memory, {p: f"/set/{p}.parquet" for p in ("train", "test")})
    for url, rule in (
        ("nowhere://set", r"fsspec can list; got nowhere://set .*nowhere"),
        ("memory://other", "made of parquet files; got none below memory://other"),
    ):
        with pytest.raises(SteppeError, match=rule) as caught:
            opened(url)
        assert "\n" not in str(caught.value)
    data = opened("memory://set")
    memory.rm("/set/train.parquet")
    blobs(data).place.folder = str(folder)  # type: ignore[attr-defined] # what was fetched is elsewhere
    blobs(data)._forget()
    for workers in (0, 1):
        with pytest.raises(SteppeError, match=r"must be a parquet file; got /set/train.parquet"):
            epoch(data, workers)
