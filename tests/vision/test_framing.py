"""Which part of an image is kept: as Pillow's own two steps, and the same for any decoding."""

from __future__ import annotations

from io import BytesIO
from random import Random

import numpy as np
import pytest
from PIL import Image, ImageOps

from steppe.core.errors import SteppeError
from steppe.vision.augment.random_resized_crop import RandomResizedCrop
from steppe.vision.data.decode import picture
from steppe.vision.data.levels import Levels, Reading
from steppe.vision.framing import Frame, ResizeCenterCrop


def photograph(width: int, height: int, seed: int = 0) -> Image.Image:
    coarse = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)


def gap(a: Image.Image, b: Image.Image) -> int:
    assert a.size == b.size
    return int(np.abs(np.asarray(a, dtype=int) - np.asarray(b, dtype=int)).max())


def jpeg(image: Image.Image, **options: object) -> bytes:
    file = BytesIO()
    image.save(file, "jpeg", quality=95, **options)
    return file.getvalue()


@pytest.mark.parametrize("size", [(500, 400), (375, 500), (301, 299), (100, 640), (256, 256)])
@pytest.mark.parametrize("filter_", ["bilinear", "bicubic"])
def test_one_step_is_what_scaling_and_cutting_give(size: tuple[int, int], filter_: str) -> None:
    """As torchvision's Resize(256) and CenterCrop(224), whose arithmetic this is."""
    image = photograph(*size)
    width, height = size
    short, long = sorted(size)
    new = (256, int(256 * long / short)) if width <= height else (int(256 * long / short), 256)
    scaled = image.resize(new, getattr(Image.Resampling, filter_.upper()))
    left, top = round((new[0] - 224) / 2.0), round((new[1] - 224) / 2.0)
    two = scaled.crop((left, top, left + 224, top + 224))
    frame = ResizeCenterCrop(224, 256, filter_)(width, height)
    # Pillow rounds after each of its two passes; bicubic weights can make two levels of it
    assert gap(frame.of(image), two) <= 2


@pytest.mark.parametrize("size", [(50, 40), (33, 57), (32, 32), (20, 21)])
def test_without_a_shorter_side_it_is_pillows_fit(size: tuple[int, int]) -> None:
    image = photograph(*size)
    framed = ResizeCenterCrop(32)(*size).of(image)
    assert gap(framed, ImageOps.fit(image, (32, 32), Image.Resampling.BILINEAR)) == 0


@pytest.mark.parametrize("turned", [False, True])
def test_a_draft_takes_the_same_box_from_fewer_pixels(turned: bool) -> None:
    """A photograph that lies on its side too: boxes are those of the upright image."""
    image = photograph(801, 603)
    upright = image.transpose(Image.Transpose.ROTATE_270) if turned else image
    exif = Image.Exif()
    exif[0x0112] = 6 if turned else 1
    blob, levels = jpeg(image, exif=exif), Levels(Reading(size=64))
    sizes, asked = [], []
    for draft in (False, True):
        frame: Frame | None = None

        def framing(width: int, height: int, draft: bool = draft) -> Frame:
            nonlocal frame
            asked.append((width, height))
            box = (0.1 * width, 0.2 * height, 0.9 * width, 0.95 * height)
            frame = Frame(box, (64, 64), Image.Resampling.BILINEAR, draft)
            return frame

        made, _ = picture(blob, "a", False, levels, framing)
        sizes.append(made)
        assert frame is not None
        assert gap(made, frame.of(upright)) < 24, "as from the image before it was encoded"
    assert asked == [upright.size] * 2
    assert 0 < gap(*sizes) < 16


def test_a_draft_never_has_fewer_pixels_than_come_out(monkeypatch: pytest.MonkeyPatch) -> None:
    blob, levels = jpeg(photograph(640, 480)), Levels(Reading(size=64))
    seen: list[tuple[float, float]] = []
    of = Frame.of

    def noting(self: Frame, image: Image.Image, shrunk: float = 1.0) -> Image.Image:
        left, top, right, bottom = self.box
        seen.append((min(right - left, bottom - top), shrunk))
        return of(self, image, shrunk)

    monkeypatch.setattr(Frame, "of", noting)
    for i in range(40):
        crop, random = RandomResizedCrop(), Random(i)
        picture(blob, "a", False, levels, lambda w, h: crop.frame(w, h, 64, random))  # noqa: B023
    assert all(side * shrunk >= 64 or shrunk == 1.0 for side, shrunk in seen)
    assert {shrunk for _, shrunk in seen} >= {0.5, 0.25}, "and it is used where it can be"


def test_crops_are_of_the_area_and_shape_asked_for() -> None:
    crop = RandomResizedCrop(scale=(0.2, 0.5), ratio=(0.5, 2.0))
    boxes = [crop.frame(200, 160, 32, Random(i)).box for i in range(400)]
    sides = [(right - left, bottom - top) for left, top, right, bottom in boxes]
    areas = np.array([w * h / (200 * 160) for w, h in sides])
    ratios = np.array([w / h for w, h in sides])
    assert 0.19 < areas.min() < 0.22
    assert 0.48 < areas.max() < 0.51
    assert 0.48 < ratios.min() < 0.55
    assert 1.8 < ratios.max() < 2.05
    assert all(0 <= b[0] and 0 <= b[1] and b[2] <= 200 and b[3] <= 160 for b in boxes)
    assert len({box[:2] for box in boxes}) > 300, "the places are random too"


def test_an_image_that_no_box_fits_in_gives_its_middle() -> None:
    box = RandomResizedCrop(scale=(1.0, 1.0)).frame(1000, 10, 32, Random(0)).box
    assert box[3] - box[1] == 10
    assert (box[2] - box[0]) / 10 == pytest.approx(4 / 3, abs=0.05)
    assert box[0] + box[2] == pytest.approx(1000, abs=1)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"size": 224, "resize": 200}, "got resize 200 for size 224"),
        ({"resize": 256}, "resize goes with the size"),
        ({"size": 8, "interpolation": "bilnear"}, "did you mean bilinear"),
        ({"size": 0}, "size must be a number of pixels"),
    ],
)
def test_sizes_that_cannot_be_are_refused(options: dict[str, object], rule: str) -> None:
    with pytest.raises(SteppeError, match=rule):
        Reading(**options)  # type: ignore[arg-type]
