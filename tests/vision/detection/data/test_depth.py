"""Images of 16 bits: levels as of images with classes, one range for all of a dataset."""

import pickle
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load

WIDTH, HEIGHT = voc_folder.SIZE


def png(values):
    """A PNG of 16 bits, grey ``[h, w]`` or in colour ``[h, w, 3]``, which PIL does not write."""
    kind = 0 if values.ndim == 2 else 2
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name, data):
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    header = struct.pack(">IIBBBBB", values.shape[1], values.shape[0], 16, kind, 0, 0, 0)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def values(most, *channels, seed=0):
    draw = np.random.default_rng(seed)
    drawn = draw.integers(0, most + 1, (HEIGHT, WIDTH, *channels), dtype=np.uint16)
    drawn[0, 0] = most
    return drawn


@pytest.fixture
def root(tmp_path):
    return voc_folder.write(tmp_path / "voc")


def stored(root, stem, data):
    (root / f"JPEGImages/{stem}.jpg").write_bytes(data)


@pytest.mark.parametrize("grey", [False, True])
def test_grey_images_of_16_bits_are_scaled_and_not_clipped(root, grey):
    deep = values(65535)
    stored(root, "000001", png(deep))
    colours = {"mean": [0.5], "std": [0.5]} if grey else {}
    data = load(f"voc:{root}", say=str, **colours)
    got = np.asarray(data.train.image(1))
    wanted = (deep // 256).astype(np.uint8)
    assert np.array_equal(got, wanted if grey else np.stack([wanted] * 3, -1))
    again = pickle.loads(pickle.dumps(data.train.of(data.train.scenes)))
    assert np.array_equal(np.asarray(again.image(1)), got), "as a worker process gets it"


def test_the_range_is_that_of_all_images_selected_or_not(root):
    said = []
    for stem, most in (("000001", 900), ("000011", 4000)):
        stored(root, stem, png(values(most)))
    for options in ({}, {"test_size": 1}):
        data = load(f"voc:{root}", say=said.append, **options)
        assert np.array_equal(np.asarray(data.train.image(1))[..., 0], values(900) // 16)
        assert "values in 0..4000 are read as 0..4095" in said[-1]
    data = load(f"voc:{root}", say=str, value_range=[0, 1023])
    assert np.array_equal(np.asarray(data.train.image(1))[..., 0], values(900) // 4)


def test_of_colours_of_16_bits_the_upper_ones_are_taken_and_said(root):
    said, deep = [], values(65535, 3)
    stored(root, "000001", png(deep))
    data = load(f"voc:{root}", say=said.append)
    assert np.array_equal(np.asarray(data.train.image(1)), deep // 256)
    assert said[-1] == "1 colour images of 16 bits: the upper 8 are taken"
    stored(root, "000001", png(values(4095, 3)))
    with pytest.raises(SteppeError, match="nearly all would be black"):
        load(f"voc:{root}", say=str)


def test_floats_and_ranges_that_cannot_be_seen(root):
    for pixels, said in ((np.full((HEIGHT, WIDTH), -3000.0), "value_range"), (np.nan, "finite")):
        deep = np.broadcast_to(np.float32(pixels), (HEIGHT, WIDTH)).astype(np.float32)
        Image.fromarray(deep).save(root / "JPEGImages/000001.tiff")
        (root / "JPEGImages/000001.tiff").rename(root / "JPEGImages/000001.jpg")
        with pytest.raises(SteppeError, match=said):
            load(f"voc:{root}", say=str)
