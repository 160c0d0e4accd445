"""Tar shards: the same images as in folders, read at their offsets."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data import ImageData, load, tar_index
from steppe.vision.data.base import StreamedSplit
from steppe.vision.loader import Loader


def put(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(photographs: Path, tmp_path: Path) -> Path:
    """The photographs in three shards to train on and one to test on; labels in two ways."""
    for part, count in (("train", 3), ("test", 1)):
        files = sorted((photographs / part).rglob("*.jpg"))
        for number in range(count):
            with tarfile.open(tmp_path / f"{part}-{number:03}.tar", "w") as tar:
                put(tar, "README.txt", b"no image")
                for i, file in enumerate(files):
                    if i * count // len(files) != number:
                        continue
                    label = int(file.parent.name[-2:])
                    put(tar, f"a/{i:04}.jpg", file.read_bytes())
                    written = json.dumps({"label": label}) if i % 2 else f"{label}\n"
                    put(tar, f"a/{i:04}.{'json' if i % 2 else 'cls'}", written.encode())
    return tmp_path


def open_(folder: Path, *, stream: bool = True) -> ImageData:
    return load(
        str(folder), size=24, augment="crop-flip", stream=stream, mean=(0.5,) * 3, std=(0.2,) * 3
    )


def assert_same_batches(one: ImageData, other: ImageData, workers: int = 0) -> None:
    """In an epoch of each split; the first is read by so many workers."""
    for part in ("train", "test"):
        pairs = zip(
            Loader.of(one, part, 8, workers=workers).epoch(1),
            Loader.of(other, part, 8, workers=0).epoch(1),
            strict=True,
        )
        assert all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in pairs)


@pytest.mark.parametrize("stream", [True, False])
def test_they_are_the_images_of_the_folders(shards: Path, photographs: Path, stream: bool) -> None:
    data, folders = open_(shards, stream=stream), open_(photographs, stream=stream)
    assert isinstance(data.train, StreamedSplit) == stream
    assert data.num_classes == 4
    assert_same_batches(data, folders, workers=2)


def test_few_files_are_open_at_a_time(shards: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steppe.vision.data.tar_shards.OPEN", 1)
    split = open_(shards).train
    assert isinstance(split, StreamedSplit)
    blobs = split.pictures.blobs
    first, last = blobs.blob(0), blobs.blob(40)
    assert blobs.blob(0) == first != last
    assert len(blobs._open) == 1  # type: ignore[attr-defined]


def test_what_is_wrong_with_a_shard_is_said_in_one_line(shards: Path) -> None:
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        put(tar, "x.jpg", b"an image")
    with pytest.raises(SteppeError, match=r"x\.jpg in .*train-003\.tar, and no x\.cls"):
        open_(shards)
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        put(tar, "x.jpg", b"an image")
        put(tar, "x.cls", b"cat")
    with pytest.raises(SteppeError, match=r"whole number; got b'cat' in x\.cls"):
        open_(shards)
    (shards / "train-003.tar").write_bytes(b"no tar" * 200)
    with pytest.raises(SteppeError, match=r"plain tar file; got .*train-003\.tar"):
        open_(shards)
    (shards / "train-003.tar").unlink()
    (shards / "test-000.tar").unlink()
    with pytest.raises(SteppeError, match=r"need train\*\.tar and test\*\.tar; got train in"):
        open_(shards)


def test_a_name_of_several_splits_is_refused(shards: Path) -> None:
    for name in ("train_and_test", "trainval", "test.train"):
        inner = shards / name
        inner.mkdir()
        (shards / "test-000.tar").rename(inner / "000.tar")
        with pytest.raises(SteppeError, match=rf"one split; got {name}, which says train, "):
            open_(shards)
        (inner / "000.tar").rename(shards / f"{name}-000.tar")
        with pytest.raises(SteppeError, match=rf"one split; got {name}-000\.tar"):
            open_(shards)
        (shards / f"{name}-000.tar").rename(shards / "test-000.tar")
        inner.rmdir()
    assert len(open_(shards).test) == 12


def test_a_file_is_of_the_split_that_its_own_name_says(shards: Path) -> None:
    inner = shards / "train"
    inner.mkdir()
    for path in sorted(shards.glob("*.tar")):
        path.rename(inner / path.name)
    (inner / "train-001.tar").rename(inner / "001.tar")
    data = open_(shards)
    assert (len(data.train), len(data.test)) == (41, 12)


def test_shards_of_no_split_are_said(shards: Path) -> None:
    (shards / "more-000.tar").write_bytes(b"")
    (shards / "latest.tar").write_bytes(b"")
    said: list[str] = []
    load(str(shards), size=24, augment="none", say=said.append)
    assert "2 tar files are of no split by their name: left out: latest.tar, more-000.tar" in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"x.jpg": b"1", "x.cls": b"1", "x.png": b"2"}, r"got x\.jpg and x\.png of x in"),
        ({"x.jpg": b"1", "x.cls": b"1", "x.json": b'{"label": 2}'}, r"got 1 and 2 of x in"),
    ],
)
def test_two_of_one_name_in_a_shard_are_refused(
    shards: Path, names: dict[str, bytes], said: str
) -> None:
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        for name, data in names.items():
            put(tar, name, data)
    with pytest.raises(SteppeError, match=said + r" .*train-003\.tar"):
        open_(shards)


def test_a_member_that_was_written_twice_is_refused(shards: Path) -> None:
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        for data in (b"old", b"new"):
            put(tar, "x.jpg", data)
            put(tar, "x.cls", b"0")
    with pytest.raises(SteppeError, match=r"one label; got x\.jpg and x\.jpg"):
        open_(shards)


@pytest.mark.parametrize("order", [1, -1])
def test_a_label_may_be_said_twice_and_lie_beside_other_words(shards: Path, order: int) -> None:
    with tarfile.open(shards / "train-003.tar", "w") as tar:
        put(tar, "x.jpg", b"an image")
        for name, text in [("x.cls", b"3"), ("x.json", b'{"url": "somewhere"}')][::order]:
            put(tar, name, text)
        put(tar, "y.jpg", b"an image")
        put(tar, "y.cls", b"2")
        put(tar, "y.json", b'{"label": 2}')
    assert sorted(open_(shards).train.labels.tolist()[-2:]) == [2, 3]


def test_what_lies_where_is_read_once_where_there_is_a_cache(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[str] = []
    look = tar_index._read

    def watched(file: Path) -> Any:
        read.append(file.name)
        return look(file)

    monkeypatch.setattr(tar_index, "_read", watched)
    cache = tmp_path / "cache"
    options = {"size": 24, "augment": "none", "stream": True, "say": lambda note: None}

    def labels() -> list[int]:
        return load(str(shards), cache=cache, **options).train.labels.tolist()  # type: ignore[arg-type]

    first = labels()
    every = ["train-000.tar", "train-001.tar", "train-002.tar", "test-000.tar"]
    assert read == every
    read.clear()
    data = load(str(shards), cache=cache, **options)  # type: ignore[arg-type]
    assert not read
    alone = load(str(shards), **options)  # type: ignore[arg-type]
    assert read == every, "without a cache they are read anew"
    assert_same_batches(data, alone)
    read.clear()
    with tarfile.open(shards / "train-001.tar", "a") as tar:
        put(tar, "more.jpg", b"an image")
        put(tar, "more.cls", b"2")
    assert len(labels()) == len(first) + 1
    assert read == ["train-001.tar"]
    for kept in cache.glob("shard-*.json"):
        kept.write_text(kept.read_text()[:-9])
    read.clear()
    assert len(labels()) == len(first) + 1
    assert sorted(read) == sorted(every), "what is damaged is read anew"


@pytest.mark.parametrize("stream", [True, False])
def test_what_pillow_reads_here_decides_in_spite_of_the_cache(
    shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """As many rows are chosen before and after; they are other images."""
    with tarfile.open(shards / "train-000.tar", "w") as tar:
        for i in range(4):
            written = io.BytesIO()
            end = "bmp" if i % 2 else "png"
            Image.new("RGB", (4, 4), (60 * i, 0, 0)).save(written, end)
            put(tar, f"{i}.{end}", written.getvalue())
            put(tar, f"{i}.cls", b"0")
    for number in (1, 2):
        (shards / f"train-{number:03}.tar").unlink()

    def first_two() -> list[int]:
        options = {"size": 4, "augment": "none", "stream": stream, "num_classes": 4}
        given = {"mean": (0.0,) * 3, "std": (1.0,) * 3, "say": lambda note: None}
        data = load(str(shards), cache=tmp_path / "kept", **options, **given)  # type: ignore[arg-type]
        loader = Loader.of(data, "train", 2, workers=0, shuffle=False)
        return (next(loader.epoch(0))[0][:, 0, 0, 0] * 255).round().int().tolist()

    for end, levels in ((".bmp", [60, 180]), (".png", [0, 120])):
        known = frozenset({end, ".jpg"})
        monkeypatch.setattr(tar_index, "suffixes", lambda known=known: known)
        assert first_two() == levels


def test_a_cache_that_is_no_folder_is_told_in_one_line(shards: Path) -> None:
    (shards / "file").write_text("")
    with pytest.raises(SteppeError, match=r"data\.cache is a folder") as caught:
        load(str(shards), size=24, cache=shards / "file" / "inside")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("cached", [True, False])
def test_labels_without_an_image_that_can_be_read_are_said(shards: Path, cached: bool) -> None:
    with tarfile.open(shards / "train-000.tar", "a") as tar:
        put(tar, "x.heic", b"an image that Pillow does not know")
        put(tar, "x.cls", b"0")
        put(tar, "y.left.jpg", b"an image of another key")
        put(tar, "y.json", b'{"label": 1}')
        put(tar, "z.json", b'{"url": "no label"}')
    for _ in range(2):
        said: list[str] = []
        cache = shards / "kept" if cached else None
        load(str(shards), size=24, augment="none", cache=cache, say=said.append)
        assert sum(note.startswith("train: 2 labels in tar files without") for note in said) == 1
        assert not any(note.startswith("test: ") for note in said)
