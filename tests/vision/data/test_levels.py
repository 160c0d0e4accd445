"""Which stored values are black and white: looked for in the whole dataset, said, or asked."""

import os

import numpy as np
import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data import load
from steppe.vision.data.levels import Levels, Reading
from steppe.vision.loader import Loader


def folder(path, arrays, test=None, suffix="tif", **options):
    """A dataset of two classes; train has these arrays, test the last of them or its own."""
    for part, own in (("train", arrays), ("test", arrays[-1:] if test is None else test)):
        for kind in "ab":
            (path / part / kind).mkdir(parents=True)
            for i, array in enumerate(own):
                image = array if isinstance(array, Image.Image) else Image.fromarray(array)
                image.save(path / part / kind / f"{i}.{suffix}", **options)
    return str(path)


def ramp(low, high, dtype):
    return np.linspace(low, high, 256).reshape(16, 16).astype(dtype)


RANGES = {
    "float32 0..1": (ramp(0, 1, np.float32), "tif", "0..1"),
    "float32 0..255": (ramp(0, 255, np.float32), "tif", "0..255"),
    "float32 -1..1": (ramp(-1, 1, np.float32), "tif", "-1..1"),
    "int32 0..255": (ramp(0, 255, np.int32), "tif", "0..255"),
    "int32 0..65535": (ramp(0, 65535, np.int32), "tif", None),
    "uint16 0..255": (ramp(0, 255, np.uint16), "png", "0..255"),
    "uint16 0..1023": (ramp(0, 1023, np.uint16), "png", "0..1023"),
    "uint16 0..4095": (ramp(0, 4095, np.uint16), "png", "0..4095"),
    "uint16 0..65535": (ramp(0, 65535, np.uint16), "png", None),
}


@pytest.mark.parametrize("name", RANGES)
def test_the_usual_ranges_are_seen_and_said_where_they_are_a_guess(name, tmp_path):
    array, suffix, shown = RANGES[name]
    said = []
    data = load(folder(tmp_path, [array], suffix=suffix), say=said.append)
    pixels = data.train.images[0, 0].flatten().int()
    assert (pixels.min(), pixels.max()) == (0, 255)
    assert len(pixels.unique()) > 250
    assert abs(float(pixels.float().mean()) - 127.5) < 1
    assert (pixels.diff() >= 0).all()
    assert len(said) == (shown is not None)
    assert shown is None or f"are read as {shown}; say otherwise with value_range" in said[0]


def test_the_range_is_that_of_the_dataset_and_of_no_selection(tmp_path):
    dark, light = np.full((4, 4), 100, np.uint16), np.full((4, 4), 4000, np.uint16)
    path = folder(tmp_path, [dark], [light], suffix="png")
    whole = load(path, say=lambda note: None)
    assert whole.train.images.unique().tolist() == [6]  # 100 of 4095, though train ends at 100
    assert whole.test.images.unique().tolist() == [250]
    part = load(path, train_size=1, test_size=1, say=lambda note: None)
    assert part.train.images.unique().tolist() == [6]


def test_what_cannot_be_seen_is_asked_and_the_way_out_works(tmp_path):
    path = folder(tmp_path, [ramp(-1000, 3000, np.int32)])
    with pytest.raises(SteppeError, match="must be given") as refused:
        load(path)
    assert "value_range [-1000, 3000] (data.value_range" in refused.value.way_out
    pixels = load(path, value_range=(-1000, 3000)).train.images
    assert (pixels.min(), pixels.max()) == (0, 255)
    window = load(path, value_range=(0, 255)).train.images  # what lies outside is clipped
    assert (window == 0).float().mean() > 0.2
    assert (window == 255).float().mean() > 0.6
    nan = ramp(0, 1, np.float32)
    nan[0, 0] = np.nan
    with pytest.raises(SteppeError, match=r"must be finite; got NaN or infinity in .*0.tif"):
        load(folder(tmp_path / "nan", [nan]))


def test_a_range_that_is_given_holds_for_eight_bits_too(tmp_path):
    path = folder(tmp_path, [ramp(0, 15.99, np.uint8)], suffix="png")
    assert int(load(path).train.images.max()) == 15
    pixels = load(path, value_range=(0, 15)).train.images
    assert len(pixels.unique()) == 16
    assert int(pixels.max()) == 240


def pictures():
    """The same square on nothing, stored with transparency in each way there is."""
    alpha = np.zeros((8, 8), np.uint8)
    alpha[:4] = 255
    colour = np.zeros((8, 8, 3), np.uint8)
    rgba = Image.fromarray(np.dstack([colour, alpha]))
    grey = Image.fromarray(np.dstack([colour[:, :, 0], alpha]))
    palette = Image.fromarray((alpha > 0).astype(np.uint8))
    palette.putpalette([255, 0, 0, 0, 0, 0])
    return {"RGBA": (rgba, {}), "LA": (grey, {}), "P": (palette, {"transparency": 0})}


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_what_is_transparent_is_laid_over_a_background_and_said(mode, tmp_path):
    image, options = pictures()[mode]
    assert image.mode == mode
    path, said = folder(tmp_path, [image] * 3, suffix="png", **options), []
    pixels = load(path, say=said.append).train.images
    assert (pixels[:, :, :4] == 0).all()
    assert (pixels[:, :, 4:] == 255).all()
    assert said[0].startswith("train: 6 images have transparent pixels: they are laid over white")
    assert said[1].startswith("test: 2 images have")
    black = load(path, background="black", say=said.append).train.images
    assert (black == 0).all()
    kept = load(path, background="keep", say=said.append).train.images
    assert (kept[:, 0, 4:] == (255 if mode == "P" else 0)).all()


def test_what_is_opaque_or_has_one_bit_is_clear(tmp_path):
    rgba = Image.fromarray(
        np.dstack([np.full((4, 4, 3), 9, np.uint8), np.full((4, 4), 255, np.uint8)])
    )
    said = []
    data = load(folder(tmp_path / "a", [rgba], suffix="png"), say=said.append)
    assert data.train.images.unique().tolist() == [9]
    bits = Image.fromarray(np.eye(4, dtype=bool))
    data = load(folder(tmp_path / "b", [bits], suffix="png"), say=said.append)
    assert data.shape == (1, 4, 4)
    assert data.train.images.unique().tolist() == [0, 255]
    cmyk = Image.new("CMYK", (4, 4), (0, 255, 255, 0))
    data = load(folder(tmp_path / "c", [cmyk]), say=said.append)
    assert data.train.images[0, :, 0, 0].tolist() == [255, 0, 0]
    assert said == []


def test_frames_beyond_the_first_are_said(tmp_path):
    frames = [Image.new("L", (4, 4), level) for level in (10, 200)]
    said = []
    path = folder(tmp_path, frames[:1], suffix="gif", save_all=True, append_images=frames[1:])
    data = load(path, say=said.append)
    assert data.train.images.unique().tolist() == [10]
    assert said[0] == "train: 2 images have more than one frame: the first is taken"


def test_what_is_said_comes_from_the_cache_too(tmp_path):
    path = folder(tmp_path / "data", [ramp(0, 4095, np.uint16)], suffix="png")
    first, again, other = [], [], []
    load(path, cache=tmp_path / "cache", say=first.append)
    load(path, cache=tmp_path / "cache", say=again.append)
    assert first == again
    assert len(first) == 1
    wide = load(path, cache=tmp_path / "cache", value_range=(0, 65535), say=other.append)
    assert int(wide.train.images.max()) == 15, "another range is another cache"
    assert other == []


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"background": "red"}, "background must be white, black, keep; got 'red'"),
        ({"channels": 2}, "channels must be 1"),
        ({"value_range": (1, 1)}, "two numbers"),
        ({"value_range": (1,)}, "two numbers"),
    ],
)
def test_what_means_nothing_is_refused(options, rule):
    with pytest.raises(SteppeError, match=rule):
        Reading(**options)
    with pytest.raises(SteppeError, match=rule):
        load("digits", **options)


def test_built_in_images_take_none_of_it():
    with pytest.raises(SteppeError, match="for images in files; got dataset digits"):
        load("digits", value_range=(0, 16))


def test_a_damaged_image_is_named_and_not_the_one_for_which_it_was_looked_at(tmp_path):
    path = folder(tmp_path, [ramp(0, 4095, np.uint16)], suffix="png")
    (tmp_path / "test" / "b" / "0.png").write_bytes(b"no image")
    with pytest.raises(SteppeError, match=r"PIL can decode; got \S*test/b/0.png \(Unidentified"):
        load(path, train_size=1)


def test_the_range_is_looked_for_once_by_whoever_starts_the_workers(tmp_path, monkeypatch):
    looked, look = tmp_path / "looked", Levels._look

    def watched(self):
        with open(looked, "a") as file:  # workers are forked: what they append is seen
            file.write(f"{os.getpid()}\n")
        look(self)

    monkeypatch.setattr(Levels, "_look", watched)
    arrays = [ramp(0, 4095, np.uint16)] * 8
    path, said = folder(tmp_path / "images", arrays, suffix="png"), []
    options = {"augment": "none", "mean": (0.0,), "std": (1.0,), "say": said.append}
    data = load(path, stream=True, **options)
    loader = Loader.of(data, "train", 2, shuffle=False, workers=2)
    streamed = torch.cat([x for x, _ in loader.epoch(0)])
    assert looked.read_text().split() == [str(os.getpid())]
    assert any("are read as 0..4095" in note for note in said)
    there = torch.cat([x for x, _ in Loader.of(load(path, **options), "train", 2).epoch(0)])
    assert torch.equal(streamed[:1], there[:1])
    looked.unlink()
    load(path, stream=True, value_range=(0, 4095), **options)
    assert not looked.exists()


def test_with_images_in_a_cache_nothing_is_looked_for_again(tmp_path, monkeypatch):
    path = folder(tmp_path / "images", [ramp(0, 4095, np.uint16)], suffix="png")
    options = {"cache": tmp_path / "cache", "say": lambda note: None}
    first = load(path, **options)

    def never(self):
        raise AssertionError("looked again")

    monkeypatch.setattr(Levels, "_look", never)
    assert torch.equal(load(path, **options).train.images, first.train.images)


def test_what_cannot_be_seen_is_refused_each_time_it_is_asked_for():
    """Of floats the range can be seen, of integers it cannot; threads ask one after the other."""
    images = [Image.fromarray(ramp(0, 1, np.float32)), Image.fromarray(ramp(-5, 9, np.int32))]
    levels = Levels(Reading())
    levels.add(lambda: ((image, f"image {i}") for i, image in enumerate(images)))
    for _ in range(2):
        with pytest.raises(SteppeError, match=r"32-bit images with values in -5\.\.9"):
            levels.of(np.asarray(images[1]))
    assert not levels.notes
