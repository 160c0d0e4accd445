"""A folder of images like ImageNet's: JPEGs of about 500 x 400 in 1,000 classes, drawn.

    python benchmarks/imagenet_like.py FOLDER              # 2,000 to train on, 1,000 to test on
    python benchmarks/imagenet_like.py FOLDER --images 20000

Sizes, bytes for each image and the share of photographs on their side are about those of ImageNet,
so that decoding costs what it costs there. Nothing can be learned from the images.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image


def image(rng: np.random.Generator, width: int, height: int) -> Image.Image:
    """Smooth colours with noise: about 100 kB as JPEG at 500 x 400."""
    coarse = rng.integers(0, 256, (8, 10, 3), dtype=np.uint8)
    smooth = Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)
    noise = rng.normal(0, 9, (height, width, 1))
    return Image.fromarray(np.clip(np.asarray(smooth) + noise, 0, 255).astype(np.uint8))


def draw(folder: Path, count: int, classes: int, width: int, height: int, seed: int) -> None:
    """``count`` JPEGs below ``folder``, the i-th in class i modulo ``classes``; those there stay.

    Args:
        folder: of a split.
        count: of images.
        classes: folders n00000000, n00000001, ...
        width: of the usual image; sides vary by a quarter, and one in four stands upright.
        height: as width.
        seed: of the split.
    """
    for i in range(count):
        path = folder / f"n{i % classes:08}" / f"{i:08}.JPEG"
        if path.exists():
            continue
        rng = np.random.default_rng([seed, i])
        sides = [round(side * rng.uniform(0.75, 1.25)) for side in (width, height)]
        if rng.random() < 0.25:
            sides.reverse()
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_suffix(".part")
        image(rng, *sides).save(aside, "jpeg", quality=90)
        aside.replace(path)


def drawn(
    folder: Path,
    images: int = 2000,
    test: int = 1000,
    classes: int = 1000,
    width: int = 500,
    height: int = 400,
) -> Path:
    """The folder with both splits, as `draw` makes them."""
    for seed, (part, count) in enumerate((("train", images), ("val", test))):
        draw(folder / part, count, classes, width, height, seed)
    return folder


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--images", type=int, default=2000, help="to train on")
    parser.add_argument("--test", type=int, default=1000, help="to test on")
    parser.add_argument("--classes", type=int, default=1000)
    parser.add_argument("--width", type=int, default=500)
    parser.add_argument("--height", type=int, default=400)
    args = parser.parse_args()
    drawn(**vars(args))
    bytes_ = sum(path.stat().st_size for path in args.folder.rglob("*.JPEG"))
    print(f"{args.images + args.test} images, {bytes_ / 2**20:.0f} MiB, in {args.folder}")


if __name__ == "__main__":
    main()
