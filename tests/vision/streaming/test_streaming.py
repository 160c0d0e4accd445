"""Streamed images: the same tensors whoever decodes them, and those of images in memory."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import signal
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor

from photographs import draw
from steppe.core.errors import SteppeError
from steppe.vision.augment.pipeline import as_pipeline
from steppe.vision.data import ImageData, load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.data.labels import select
from steppe.vision.loader import Loader
from steppe.vision.streaming.fetch import usual_workers

Batch = tuple[Tensor, Tensor]
FULL = [
    "random_resized_crop",
    "flip",
    {"rand_augment": {"n": 2, "m": 9}},
    {"color_jitter": {"brightness": 0.4, "hue": 0.1}},
    {"random_erasing": {"p": 0.5}},
]


def streamed(folder: Path, **options: Any) -> ImageData:
    usual = {"size": 32, "stream": True, "augment": FULL, "say": lambda note: None}
    return load(str(folder), **(usual | options))


def same(a: list[Batch], b: list[Batch]) -> bool:
    pairs = list(zip(a, b, strict=True))
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


def epoch(data: ImageData, number: int = 2, start: int = 0, **options: Any) -> list[Batch]:
    return list(Loader.of(data, "train", 8, seed=5, **options).epoch(number, start))


@pytest.fixture(scope="module")
def alone(photographs: Path) -> list[Batch]:
    """An epoch that this process decodes by itself."""
    return epoch(streamed(photographs), workers=0)


@pytest.mark.parametrize("workers", [1, 3])
def test_any_number_of_workers_gives_the_same_tensors(
    photographs: Path, alone: list[Batch], workers: int
) -> None:
    loader = Loader.of(streamed(photographs), "train", 8, seed=5, workers=workers)
    assert same(list(loader.epoch(2)), alone)
    assert not same(list(loader.epoch(3)), alone)
    assert same(list(loader.epoch(2)), alone), "the workers live on, and remember nothing"


def test_an_epoch_goes_on_from_any_batch_and_decodes_nothing_before(
    photographs: Path, alone: list[Batch], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = streamed(photographs)
    decoded: list[int] = []
    of = type(data.train.pictures).of  # type: ignore[union-attr, attr-defined]

    def counting(self: Any, row: int, *others: Any) -> Any:
        decoded.append(row)
        return of(self, row, *others)

    monkeypatch.setattr(type(data.train.pictures), "of", counting)  # type: ignore[attr-defined]
    for start in (1, 4):
        decoded.clear()
        assert same(epoch(data, start=start, workers=0), alone[start:])
        assert len(decoded) == 8 * (5 - start)
    assert same(epoch(data, start=3, workers=2), alone[3:])


@pytest.mark.parametrize("workers", [0, 2])
def test_two_ranks_share_out_what_one_process_sees(
    photographs: Path, alone: list[Batch], workers: int
) -> None:
    data = streamed(photographs)
    shares = [epoch(data, rank=rank, world=2, workers=workers) for rank in range(2)]
    for (x, y), *parts in zip(alone, *shares, strict=True):
        for rank, (own, labels) in enumerate(parts):
            assert torch.equal(own, x[rank::2])
            assert torch.equal(labels, y[rank::2])


@pytest.mark.parametrize("augment", ["none", "crop-flip"])
def test_streaming_changes_nothing_but_where_the_images_lie(
    photographs: Path, augment: str
) -> None:
    options = {"augment": augment, "mean": (0.5,) * 3, "std": (0.2,) * 3, "validation": 0.2}
    on_disk = streamed(photographs, **options)
    in_memory = streamed(photographs, stream=False, **options)
    assert isinstance(on_disk.train, StreamedSplit)
    assert on_disk.shape == in_memory.shape == (3, 32, 32)
    assert same(epoch(on_disk, workers=2), epoch(in_memory))
    for part in ("test", "validation"):
        ours, theirs = (list(Loader.of(data, part, 5).epoch(0)) for data in (on_disk, in_memory))
        assert same(ours, theirs)


def test_no_generator_of_the_process_is_used(photographs: Path, alone: list[Batch]) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    assert same(epoch(streamed(photographs), workers=1), alone)
    assert torch.equal(before, torch.get_rng_state())


def test_a_loader_may_be_read_while_it_is_read(photographs: Path, alone: list[Batch]) -> None:
    """A search that tries networks out reads training images in the midst of an epoch."""
    loader = Loader.of(streamed(photographs), "train", 8, seed=5, workers=1)
    outer = loader.epoch(2)
    read = list(islice(outer, 2))
    assert same(list(loader.epoch(2)), alone)
    assert same(read + list(outer), alone)


def test_what_worker_processes_get_can_be_copied(photographs: Path) -> None:
    """Where processes are not forked, they get a pickled copy."""
    split = streamed(photographs).train
    assert isinstance(split, StreamedSplit)
    other = pickle.loads(pickle.dumps(split))
    picture, copied = (s.pictures.of(3, s.pictures.framing) for s in (split, other))
    assert picture.tobytes() == copied.tobytes()


def test_a_broken_image_is_named_in_one_line_by_whoever_decodes_it(
    photographs: Path, tmp_path: Path
) -> None:
    import shutil

    folder = shutil.copytree(photographs, tmp_path / "copy")
    broken = folder / "train" / "class00" / "008.jpg"
    broken.write_bytes(broken.read_bytes()[:200])
    for workers in (0, 1):
        with pytest.raises(SteppeError, match=r"PIL can decode; got .*008\.jpg") as caught:
            epoch(streamed(folder), workers=workers)
        assert "\n" not in str(caught.value)
    broken.unlink()
    data = streamed(folder)
    gone = folder / "train" / "class01" / "001.jpg"
    gone.unlink()
    with pytest.raises(SteppeError, match=r"got .*001\.jpg .FileNotFoundError"):
        epoch(data, workers=1)


def test_a_worker_that_dies_is_told_in_one_line(photographs: Path) -> None:
    stream = Loader.of(streamed(photographs), "train", 8, workers=1).epoch(0)
    next(stream)
    for child in multiprocessing.active_children():
        assert child.pid is not None
        os.kill(child.pid, signal.SIGKILL)
        child.join()  # nothing is raised in the midst of what else is done
    with pytest.raises(SteppeError, match=r"worker processes must live.*data.workers"):
        list(stream)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_of_who_asks_is_no_death_of_a_worker(photographs: Path, workers: int) -> None:
    split = streamed(photographs).train
    reader = split.reader(as_pipeline(None), 0, workers, False)

    def asked() -> Iterator[Tensor]:
        yield torch.arange(2)
        raise OSError("of who asks")

    with pytest.raises(OSError, match="of who asks"):
        list(reader.read(0, asked()))


@pytest.mark.parametrize(
    ("cores", "processes", "here", "expected"),
    [
        (64, 32, "8", 8),  # four machines of eight processes
        (16, 32, "8", 2),
        (16, 4, None, 4),
        (4, 32, "8", 1),
        (16, 1, "8", 8),  # one that trains alone beside others that do not share its batches
    ],
)
def test_workers_share_the_cores_of_their_own_machine(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, here: str | None, expected: int
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)
    environment = {} if here is None else {"LOCAL_WORLD_SIZE": here}
    assert usual_workers(processes, environment) == expected


def test_processes_that_each_read_whole_batches_share_the_cores_too(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = streamed(photographs)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert Loader.of(data, "test", 4).workers == 8
    monkeypatch.setattr("steppe.engine.ranks.world", lambda: 4)
    assert Loader.of(data, "test", 4).workers == 2
    assert Loader.of(data, "test", 4, rank=1, world=4).workers == 2


def test_shared_memory_that_is_full_is_told_in_one_line(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Tensor) -> Tensor:
        raise RuntimeError("unable to allocate shared memory(shm)")

    monkeypatch.setattr(Tensor, "share_memory_", full)
    with pytest.raises(SteppeError, match=r"unable to allocate.*shm-size") as caught:
        epoch(streamed(photographs), workers=1)
    assert "\n" not in str(caught.value)


def test_images_are_streamed_where_memory_is_too_small_for_them(
    photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"stream": "auto", "augment": "none"}
    assert not isinstance(streamed(photographs, **options).train, StreamedSplit)
    monkeypatch.setattr("steppe.vision.data.on_disk.MEMORY", 53 * 3 * 32 * 32 - 1)
    data = streamed(photographs, **options)
    assert isinstance(data.train, StreamedSplit)
    assert any("decoded they would take" in note for note in data.notes)


def test_an_augmentation_that_frames_streams(photographs: Path) -> None:
    data = streamed(photographs, stream="auto", augment="imagenet")
    assert isinstance(data.train, StreamedSplit)
    with pytest.raises(SteppeError, match="with stream: false"):
        streamed(photographs, stream=False, augment="imagenet")
    with pytest.raises(SteppeError, match="need a size"):
        streamed(photographs, augment="imagenet", size=None)
    with pytest.raises(SteppeError, match="a dataset that lies in memory"):
        load("digits", stream=True)


def test_without_a_size_the_images_must_have_one(tmp_path: Path) -> None:
    for part in ("train", "test"):
        draw(tmp_path / part, 1, 1, (40, 30), 3)
    draw(tmp_path / "train" / "class01", 1, 1, (50, 30), 3)
    with pytest.raises(SteppeError, match=r"must have one size; got \d+ x \d+ in .*class01"):
        list(Loader.of(streamed(tmp_path, size=None, augment="none"), "train", 2).epoch(0))


def test_single_images_in_memory_are_augmented_too(photographs: Path) -> None:
    data = streamed(photographs, stream=False, augment=["flip", {"rand_augment": {"m": 20}}])
    assert not isinstance(data.train, StreamedSplit)
    alone = epoch(data, workers=0)
    assert same(epoch(data, workers=2), alone)
    assert not same(epoch(data, augment=None), alone)


def test_of_an_image_that_is_left_out_nothing_is_read(photographs: Path, tmp_path: Path) -> None:
    """Neither its size nor its depth: it may be no image at all."""
    import shutil

    folder = shutil.copytree(photographs, tmp_path / "copy")
    options = {"train_size": 8, "augment": "none", "channels": 3}
    rows = streamed(folder, **options).train.rows.tolist()  # type: ignore[union-attr]
    assert rows[0] > 0
    first = min((folder / "train" / "class00").iterdir())
    first.write_bytes(b"no image")
    data = streamed(folder, **options)
    assert len(list(Loader.of(data, "train", 4, workers=0).epoch(0))) == 2
    one_size = tmp_path / "one"
    for part, count in (("train", 9), ("test", 2)):
        (one_size / part / "a").mkdir(parents=True)
        for i in range(count):
            Image.new("RGB", (9, 6)).save(one_size / part / "a" / f"{i}.png")
    options |= {"train_size": 3, "size": None}
    Image.new("RGB", (7, 7)).save(one_size / "train" / "a" / "0.png")
    options["seed"] = next(
        seed for seed in range(99) if select(torch.zeros(9).long(), 3, 0, seed)[0][0]
    )
    assert streamed(one_size, **options).train.shape == (3, 6, 9)
