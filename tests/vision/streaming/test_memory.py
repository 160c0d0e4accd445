"""With the number of streamed images only their places and labels grow."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from photographs import draw
from steppe.vision.data import load
from steppe.vision.data.base import StreamedSplit

FEW, MANY = 160, 1600
DECODED = 3 * 128 * 128
"""Bytes of an image, as memory_worker.py reads it."""
WORKER = Path(__file__).with_name("memory_worker.py")


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


def peak(folder: Path, *, stream: bool) -> int:
    """Most bytes that a process of its own and its worker had, in two epochs."""
    command = [sys.executable, str(WORKER), str(folder), "true" if stream else "false"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=400)
    assert not done.returncode, done.stderr
    return int(done.stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the peak is told by Linux")
def test_ten_times_the_images_need_the_same_memory(folders: dict[int, Path]) -> None:
    of_few = peak(folders[FEW], stream=True)
    grown = {stream: peak(folders[MANY], stream=stream) - of_few for stream in (True, False)}
    more = (MANY - FEW) * DECODED
    assert grown[False] > 0.8 * more, "in memory every image is there"
    assert grown[True] < 0.2 * more


def test_what_is_known_of_an_image_is_small(folders: dict[int, Path]) -> None:
    sizes = []
    opened = partial(load, size=32, augment="imagenet", stream=True, say=lambda note: None)
    for count in (FEW, MANY):
        split = opened(str(folders[count])).train
        assert isinstance(split, StreamedSplit)
        sizes.append(len(pickle.dumps(split)))
    assert (sizes[1] - sizes[0]) / (MANY - FEW) < 64, "its path below the folder and 24 bytes"
