"""With the number of streamed images only their places and labels grow."""

from __future__ import annotations

import os
import pickle
import tracemalloc
from pathlib import Path

import pytest

from photographs import draw
from steppe.vision.data import load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.loader import Loader

FEW, MANY = 48, 480


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Of so many images to train on; each of the few has ten names among the many."""
    base = tmp_path_factory.mktemp("folders")
    for count in (FEW, MANY):
        draw(base / str(count) / "test", 4, 4, (60, 48), 1)
    draw(base / str(FEW) / "train", FEW, 4, (60, 48), 0)
    for path in sorted((base / str(FEW) / "train").rglob("*.jpg")):
        other = base / str(MANY) / "train" / path.parent.name
        other.mkdir(parents=True, exist_ok=True)
        for i in range(MANY // FEW):
            os.link(path, other / f"{path.stem}-{i}.jpg")
    return {count: base / str(count) for count in (FEW, MANY)}


def opened(folder: Path) -> Loader:
    data = load(str(folder), size=32, augment="imagenet", stream=True, say=lambda note: None)
    return Loader.of(data, "train", 8, workers=0)


def peak(folder: Path) -> int:
    """Bytes at most while an epoch is streamed, of what Python and NumPy hold."""
    loader = opened(folder)
    for _ in loader.epoch(0):  # what is imported and kept by the first images is there
        pass
    tracemalloc.start()
    seen = sum(len(labels) for _, labels in loader.epoch(1))
    assert seen == len(loader.split)
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return most


def test_an_epoch_of_ten_times_the_images_needs_the_same_memory(folders: dict[int, Path]) -> None:
    grown = peak(folders[MANY]) - peak(folders[FEW])
    assert grown < 64 * (MANY - FEW), "decoded, an image has 3,072 bytes"


def test_what_is_known_of_an_image_is_small(folders: dict[int, Path]) -> None:
    sizes = []
    for count in (FEW, MANY):
        split = opened(folders[count]).split
        assert isinstance(split, StreamedSplit)
        sizes.append(len(pickle.dumps(split)))
    assert (sizes[1] - sizes[0]) / (MANY - FEW) < 64, "its path below the folder and 24 bytes"
