"""Workers that share nothing with their process, as on macOS and Windows and with Python 3.14."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

READ = """
import multiprocessing, sys
import torch
from steppe.vision.data import load
from steppe.vision.loader import Loader

def read(workers):
    data = load(
        sys.argv[1], size=32, resize=36, augment="imagenet", stream=True, workers=workers,
        say=lambda note: None,
    )
    return [x for split in ("train", "test") for x, _ in Loader.of(data, split, 4, seed=0).epoch(0)]

multiprocessing.set_start_method(sys.argv[2])
for here, there in zip(read(0), read(1), strict=True):
    assert torch.equal(here, there)
"""


@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_they_give_the_same_images(method: str, photographs: Path) -> None:
    command = [sys.executable, "-c", READ, str(photographs), method]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
