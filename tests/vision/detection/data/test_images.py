"""Images with boxes: what their headers and pixels may be, each fault in a line with its file."""

import io

import numpy as np
import pytest
from PIL import Image

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load


@pytest.fixture
def root(tmp_path):
    return voc_folder.write(tmp_path / "voc")


def stored(root, data):
    """Another second image."""
    (root / "JPEGImages/000001.jpg").write_bytes(data)


def jpeg(**options):
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 256, voc_folder.SIZE[::-1], dtype=np.uint8)
    Image.fromarray(noise).convert("RGB").save(file, "JPEG", **options)
    return file.getvalue()


def refused(root):
    with pytest.raises(SteppeError) as error:
        load(f"voc:{root}", say=str)
    assert "000001.jpg" in str(error.value)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("orientation", range(10))
def test_an_image_that_is_stored_turned_or_mirrored_is_refused(root, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored(root, jpeg(exif=exif))
    if orientation in (0, 1, 9):  # of 9 there is nothing in the standard
        assert load(f"voc:{root}", say=str).train.image(1).size == voc_folder.SIZE
    else:
        assert f"orientation {orientation} in the EXIF data of" in refused(root)


@pytest.mark.parametrize("keep", [0, 2, 40])
def test_no_header_is_refused_before_training(root, keep):
    stored(root, jpeg()[:keep])
    assert "must be one that PIL can decode" in refused(root)


def test_an_image_that_ends_in_its_midst_is_refused_when_it_is_read(root):
    data = jpeg()
    stored(root, data[: len(data) // 2])
    split = load(f"voc:{root}", say=str).train
    with pytest.raises(SteppeError, match=r"000001\.jpg \(OSError: .*truncated") as error:
        split.image(1)
    assert "\n" not in str(error.value)


def test_other_modes_become_the_channels_that_are_asked_for(root):
    for mode in ("1", "L", "P", "CMYK", "RGBA"):
        file = io.BytesIO()
        kind = "TIFF" if mode == "CMYK" else "PNG"
        Image.new(mode, voc_folder.SIZE).save(file, kind)
        stored(root, file.getvalue())
        for mean, bands in (([0.5] * 3, "RGB"), ([0.5], "L")):
            data = load(f"voc:{root}", say=str, mean=mean, std=mean)
            assert data.train.image(1).mode == bands
