"""Boxes move with the pixels: what is seen at a box is the object, whatever is done to it."""

from random import Random

import numpy as np
import pytest
import torch
from PIL import Image

from looped import looped
from steppe import SteppeError
from steppe.vision.augment.color_jitter import turned
from steppe.vision.detection.augment import AUGMENTATIONS, View, augmentations
from steppe.vision.detection.augment.crop import Crop
from steppe.vision.detection.augment.distort import Distort
from steppe.vision.detection.augment.expand import Expand
from steppe.vision.detection.augment.mirror import Mirror
from steppe.vision.detection.boxes import areas
from steppe.vision.detection.data import load
from steppe.vision.detection.rendering import pixels, render
from steppe.vision.detection.targets import CROWD

SIZE = (120, 90)
BOX = (30, 20, 75, 50)


def image():
    """White but for one green box."""
    levels = np.full((SIZE[1], SIZE[0], 3), 255, dtype=np.uint8)
    levels[BOX[1] : BOX[3], BOX[0] : BOX[2]] = (0, 200, 0)
    return Image.fromarray(levels)


def whole():
    sides = [BOX[0] / SIZE[0], BOX[1] / SIZE[1], BOX[2] / SIZE[0], BOX[3] / SIZE[1]]
    return View.whole(SIZE, torch.tensor([[*sides, 1, 0]]))


FIRST_MIRRORED = [{"mirror": {"chance": 1.0}}, {"expand": {"most": 2.0}}, "crop"]


@pytest.mark.parametrize("name", ["crop", "expand", "mirror", "ssd", FIRST_MIRRORED])
@looped(seed=range(12))
def test_the_object_is_where_its_box_says(name, seed):
    view, draw = whole(), Random(seed)
    for part in augmentations(name):
        view = part.seen(view, draw)
    seen = pixels(render(image(), view, 96, (1.0, 0.0, 1.0))).float()
    green = (seen[1] > 100) & (seen[0] < 100)
    if not len(view.objects):
        return
    rows, columns = green.nonzero(as_tuple=True)
    left, top, right, bottom = (96 * view.objects[0, :4]).tolist()
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    for at, wanted in zip(found, (left, top, right, bottom), strict=True):
        assert abs(float(at) - wanted) <= 2.0, (found, view)
    assert view.objects[0, 4:].tolist() == [1, 0]


def test_a_crop_keeps_what_is_centred_in_it_and_cuts_it():
    objects = torch.tensor([[0.1, 0.1, 0.3, 0.3, 0, 0], [0.7, 0.7, 0.9, 0.9, 1, 0]])
    kept = set()
    for seed in range(60):
        view = Crop().seen(View.whole((100, 100), objects), Random(seed))
        assert 1 <= len(view.objects) <= 2
        assert bool((areas(view.objects[:, :4]) > 0).all())
        assert float(view.objects[:, :4].min()) >= 0
        assert float(view.objects[:, :4].max()) <= 1
        kept.add(len(view.objects))
    assert kept == {1, 2}


def test_crowds_choose_no_window():
    objects = torch.tensor([[0.1, 0.1, 0.3, 0.3, 0, 0], [0.6, 0.6, 0.9, 0.9, 1, CROWD]])
    both = set()
    for seed in range(60):
        flags = Crop().seen(View.whole((100, 100), objects), Random(seed)).objects[:, 5]
        assert 0 in flags, "an object that is learned"
        both.add(len(flags))
    assert both == {1, 2}


@pytest.mark.parametrize("size", [(1000, 100), (100, 1000), (700, 100), (100, 100)])
def test_long_images_are_cropped_too(size):
    """A window is at most 2 to 1, or as long as the image: none of 10 to 1 could be 2 to 1."""
    objects = torch.tensor([[0.1, 0.1, 0.6, 0.9, 0, 0]])
    windows = [Crop().seen(View.whole(size, objects), Random(seed)).window for seed in range(30)]
    shapes = [(right - left) / (bottom - top) for left, top, right, bottom in windows]
    cropped = [shape for shape, window in zip(shapes, windows, strict=True) if window[2:] != size]
    assert len(cropped) > 15
    longest = max(2.0, size[0] / size[1], size[1] / size[0])
    assert all(1 / longest - 1e-9 <= shape <= longest + 1e-9 for shape in cropped)


def test_an_image_without_objects_is_cropped_too():
    empty = View.whole((100, 80), torch.zeros(0, 6))
    views = [Crop().seen(empty, Random(seed)) for seed in range(20)]
    assert any(view.window != (0.0, 0.0, 100.0, 80.0) for view in views)


def test_a_window_may_lie_beside_an_image_without_objects():
    grey, plain = Image.new("RGB", (100, 80), (9, 9, 9)), set()
    for seed in range(200):
        view = View.whole((100, 80), torch.zeros(0, 6))
        for part in (Expand(chance=1.0), Crop()):
            view = part.seen(view, Random(seed))
        plain.add(len(render(grey, view, 32, (1.0, 0.0, 0.0)).getcolors()))
    assert plain == {1, 2}


def test_what_lies_beyond_the_image_has_the_mean_colour():
    view = Expand(chance=1.0).seen(whole(), Random(3))
    seen = render(image(), view, 64, (1.0, 0.0, 0.0))
    colours = {seen.getpixel((x, y)) for x in (0, 63) for y in (0, 63)}
    assert (255, 0, 0) in colours


def test_mirrored_twice_it_is_as_it_was():
    mirror = Mirror(chance=1.0)
    twice = mirror.seen(mirror.seen(whole(), Random(0)), Random(0))
    torch.testing.assert_close(twice.objects, whole().objects)
    assert not twice.mirrored


def test_the_whole_view_is_the_image_scaled():
    plain = image().resize((64, 64), Image.Resampling.BILINEAR)
    assert torch.equal(pixels(render(image(), whole(), 64, (0, 0, 0))), pixels(plain))


def test_other_colours_change_no_box_and_stay_levels():
    coloured = [Distort().coloured(image(), Random(seed)) for seed in range(8)]
    assert {one.size for one in coloured} == {SIZE}
    assert len({one.tobytes() for one in coloured}) > 5
    grey = Distort().coloured(image().convert("L"), Random(1))
    assert grey.mode == "L"


def test_hues_are_turned_as_those_of_classifiers_are():
    only = Distort(brightness=0, contrast=(1, 1), saturation=(1, 1), chance=1.0)
    for seed in range(20):
        draw = Random(seed)
        degrees = [draw.uniform(-most, most) for most in (0, 0, 0, only.hue)][-1]
        wanted = turned(image(), degrees / 360)
        assert only.coloured(image(), Random(seed)).tobytes() == wanted.tobytes()


def test_every_part_is_a_value_that_an_equal_draw_repeats():
    for name in AUGMENTATIONS:
        part = AUGMENTATIONS[name]()
        assert part == AUGMENTATIONS[name]()
        one, other = (part.seen(whole(), Random(5)) for _ in range(2))
        assert torch.equal(one.objects, other.objects)


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("crpo", "did you mean crop"),
        ([{"crop": {"most": 1}}], "its options: least, overlaps"),
        ([{"expand": {"most": 0.5}}], r"expand: most must be a number in \[1, 100\]; got 0\.5"),
        ([{"expand": {"most": "2"}}], "expand: most must be a number .* got '2'"),
        ([{"expand": {"chance": 1.5}}], r"expand: chance must be a number in \[0, 1\]"),
        ([{"mirror": {"chance": -0.5}}], r"mirror: chance must be a number in \[0, 1\]"),
        ([{"mirror": {"chance": True}}], "mirror: chance must be a number"),
        ([{"crop": {"least": 0}}], r"crop: least must be a number in \[0\.01, 1\]"),
        (
            [{"crop": {"overlaps": [0.5, 2]}}],
            r"crop: overlaps must be a list of .* got \(0\.5, 2\)",
        ),
        ([{"crop": {"overlaps": []}}], "crop: overlaps must be a list"),
        ([{"crop": {"overlaps": "0.5"}}], "crop: overlaps must be a list"),
        ([{"crop": {"overlaps": [float("nan")]}}], "crop: overlaps must be a list"),
        ([{"distort": {"brightness": 300}}], r"distort: brightness must be .* \[0, 255\]"),
        ([{"distort": {"contrast": 1.5}}], "distort: contrast must be two numbers in order"),
        ([{"distort": {"saturation": [1.5, 0.5]}}], "distort: saturation must be two numbers"),
        ([{"distort": {"hue": 400}}], r"distort: hue must be a number in \[0, 180\]"),
        ([{"distort": {"chance": None}}], "distort: chance must be a number"),
        ([3], "a part of augment is a name"),
    ],
)
def test_what_is_no_augmentation_is_refused(what, said):
    with pytest.raises(SteppeError, match=said) as refused:
        augmentations(what)
    assert "\n" not in str(refused.value)


def test_it_is_refused_before_data_are_read(tmp_path):
    with pytest.raises(SteppeError, match="mirror: chance"):
        load(f"voc:{tmp_path / 'nowhere'}", augment=[{"mirror": {"chance": 2}}])


def test_lists_of_a_recipe_are_values():
    (part,) = augmentations([{"crop": {"overlaps": [0.1, 0.5]}}])
    assert part == Crop(overlaps=(0.1, 0.5))
    assert hash(part) == hash(Crop(overlaps=(0.1, 0.5)))


def test_a_mistyped_name_is_told_of_all_names() -> None:
    with pytest.raises(SteppeError, match=r"did you mean ssd\? known: .*mirror, none, ssd"):
        augmentations("sssd")
