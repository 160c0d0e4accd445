"""Augmentations in a row, from a recipe."""

from __future__ import annotations

from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.vision.augment import AUGMENTATIONS, Pipeline, augmentation
from steppe.vision.augment.crop_flip import CropFlip
from steppe.vision.augment.cutmix import CutMix
from steppe.vision.augment.flip import Flip
from steppe.vision.augment.mixup import Mixup
from steppe.vision.augment.rand_augment import RandAugment
from steppe.vision.augment.random_resized_crop import RandomResizedCrop

LARGE = (3, 224, 224)
IMAGENET = Pipeline(RandomResizedCrop(), (Flip(),))


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ("imagenet", IMAGENET),
        (["random_resized_crop", "flip"], IMAGENET),
        (
            [{"random_resized_crop": {"scale": [0.25, 1]}}, "flip", {"rand_augment": {"n": 1}}],
            Pipeline(RandomResizedCrop((0.25, 1)), (Flip(), RandAugment(n=1))),
        ),
        (
            [{"crop_flip": {"pad": 2}}, {"mixup": {"alpha": 0.1}}, {"cutmix": None}],
            Pipeline(None, (), CropFlip(2, True), (Mixup(0.1), CutMix())),
        ),
        ([Flip(p=0.1)], Pipeline(None, (Flip(p=0.1),))),
        ([], Pipeline()),
    ],
)
def test_a_list_of_steps_is_a_value(what: Any, expected: Pipeline) -> None:
    assert augmentation(what, LARGE) == expected


def test_auto_crops_large_streamed_images_as_imagenet_is_trained() -> None:
    assert augmentation("auto", LARGE, streamed=True) == IMAGENET
    assert augmentation("auto", LARGE) == CropFlip(28, True)
    assert augmentation("auto", (3, 32, 32), streamed=True) == CropFlip(4, True)


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        (["flp"], "unknown augmentation; got 'flp'. Way out: did you mean flip"),
        ([{"flip": {"q": 1}}], "unknown option of augmentation flip; got 'q'"),
        ([{"flip": {"p": 2}}], r"flip: p must be a number in \[0, 1\]; got 2"),
        ([{"flip": {}, "mixup": {}}], "one name with its options"),
        (["flip", "random_resized_crop"], r"got flip, random_resized_crop.*\[random_resized_crop"),
        (["random_resized_crop", "random_resized_crop"], "one augmentation that frames"),
        (["crop_flip", "crop_flip"], "one augmentation of whole batches"),
        (["random_resized_crop", {"transform": "copy:copy"}], "transform|callable|call"),
        ([3], "got int"),
        ([{"random_resized_crop": {"scale": [1, 0.5]}}], "two numbers in order"),
        ([{"rand_augment": {"m": 31}}], "rand_augment: m must be a number in"),
        ([{"rand_augment": {"n": 0}}], "rand_augment: n must be"),
        ([{"mixup": {"alpha": 0}}], "mixup: alpha must be positive"),
        ([{"color_jitter": {"hue": 0.6}}], "color_jitter: hue"),
        ([{"random_erasing": {"fill": "blue"}}], "three levels of 0 to 255, or noise"),
    ],
)
def test_what_is_no_augmentation_gets_one_line(what: Any, rule: str) -> None:
    with pytest.raises(Exception, match=rule) as caught:
        augmentation(what, LARGE)
    assert isinstance(caught.value, SteppeError | TypeError)
    assert "\n" not in str(caught.value)


def test_each_is_registered_by_its_name() -> None:
    for name in AUGMENTATIONS:
        assert AUGMENTATIONS[name].name == name
