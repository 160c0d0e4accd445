"""A small folder of photographs, drawn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def draw(folder: Path, count: int, classes: int, sides: tuple[int, int], seed: int) -> None:
    """JPEGs of smooth noise in ``classes`` folders, of slightly different sizes."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        width, height = (side + int(rng.integers(0, 9)) for side in sides)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / f"class{i % classes:02}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=85)


@pytest.fixture(scope="session")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """41 JPEGs to train on and 12 to test on, about 60 x 48, in four classes."""
    folder = tmp_path_factory.mktemp("photographs")
    draw(folder / "train", 41, 4, (60, 48), 0)
    draw(folder / "test", 12, 4, (60, 48), 1)
    return folder
