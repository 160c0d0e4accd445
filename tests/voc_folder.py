"""A small Pascal VOC folder: bright squares and dark bars on grey, their boxes known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIZE = (96, 80)
COLOURS = {"square": (230, 60, 40), "bar": (20, 40, 200)}


def annotation(stem, objects, size=SIZE):
    """XML of an image; objects are (name, xmin, ymin, xmax, ymax, difficult), counted from 1."""
    parts = [
        f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>"
        f"<xmin>{box[0]}</xmin><ymin>{box[1]}</ymin><xmax>{box[2]}</xmax><ymax>{box[3]}</ymax>"
        f"</bndbox></object>"
        for name, *box, difficult in objects
    ]
    width, height = size
    return (
        f"<annotation><filename>{stem}.jpg</filename><size><width>{width}</width>"
        f"<height>{height}</height><depth>3</depth></size>{''.join(parts)}</annotation>"
    )


def write(root: Path, train: int = 8, test: int = 4) -> Path:
    """The folder, with splits trainval and test."""
    for folder in ("Annotations", "JPEGImages", "ImageSets/Main"):
        (root / folder).mkdir(parents=True)
    rng = np.random.default_rng(0)
    stems = [f"{i:06d}" for i in range(train + test)]
    for stem in stems:
        pixels = rng.integers(110, 140, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
        objects = []
        for name, (w, h) in (("square", (28, 28)), ("bar", (40, 14))):
            x, y = int(rng.integers(0, SIZE[0] - w)), int(rng.integers(0, SIZE[1] - h))
            pixels[y : y + h, x : x + w] = COLOURS[name]
            objects.append((name, x + 1, y + 1, x + w, y + h, 0))
        Image.fromarray(pixels).save(root / "JPEGImages" / f"{stem}.jpg", quality=95)
        (root / "Annotations" / f"{stem}.xml").write_text(annotation(stem, objects))
    for split, own in (("trainval", stems[:train]), ("test", stems[train:])):
        (root / "ImageSets" / "Main" / f"{split}.txt").write_text("\n".join(own) + "\n")
    return root
