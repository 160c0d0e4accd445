"""JPEGs of smooth noise, in a folder for each class."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def draw(folder: Path, count: int, classes: int, sides: tuple[int, int], seed: int) -> None:
    """Images of about ``sides`` (width, height), each up to 8 pixels longer, the i-th of class i
    modulo ``classes``."""
    rng = np.random.default_rng(seed)
    for i in range(count):
        width, height = (side + int(rng.integers(0, 9)) for side in sides)
        coarse = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        image = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
        path = folder / f"class{i % classes:02}" / f"{i:03}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image.save(path, quality=85)
