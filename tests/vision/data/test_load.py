"""steppe.vision.data: what a name means, selections, statistics."""

import numpy as np
import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.augment.crop_flip import CropFlip
from steppe.vision.colours import IMAGENET_MEAN, IMAGENET_STD
from steppe.vision.data import DATASETS, load


def same(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


@pytest.mark.parametrize("name", list(DATASETS))
def test_every_registered_dataset_is_whole(name):
    data = load(name)
    for split in (data.train, data.test):
        assert split.images.dtype == torch.uint8
        assert split.images.is_contiguous()
        assert split.labels.dtype == torch.int64
        assert len(split.images) == len(split.labels) == len(split)
        assert set(split.labels.tolist()) == set(range(data.num_classes))
        assert tuple(split.images.shape[1:]) == data.shape


def test_selections_are_seeded():
    first, again, other = (load("digits", train_size=100, seed=s) for s in (0, 0, 1))
    assert same(first.train, again.train)
    assert not same(first.train, other.train)
    assert same(first.test, other.test)


def test_validation_is_disjoint_and_the_same_for_every_train_size():
    small = load("digits", train_size=50, validation=200)
    large = load("digits", validation=200)
    assert (len(small.train), len(small.validation)) == (50, 200)
    assert (len(large.train), len(large.validation)) == (1097, 200)
    assert same(small.validation, large.validation)
    images = {im.numpy().tobytes() for im in large.train.images}
    validation = {im.numpy().tobytes() for im in large.validation.images}
    assert len(images | validation) == len(
        {im.numpy().tobytes() for im in load("digits").train.images}
    )


def test_mean_and_std_are_those_of_the_training_images():
    data = load("digits")
    pixels = data.train.images.double() / 255
    assert data.mean[0] == pytest.approx(float(pixels.mean()))
    assert data.std[0] == pytest.approx(float(pixels.std(correction=0)))


def test_cifar_images_get_the_usual_constants(parquet_folder):
    folder, _ = parquet_folder([0, 1], [0, 1], shape=(32, 32, 3))
    data = load(str(folder))
    assert (data.mean, data.std) == (IMAGENET_MEAN, IMAGENET_STD)
    assert data.augment == CropFlip(4, flip=True)
    given = load(str(folder), mean=(0, 0, 0), std=(1, 1, 1), augment="none")
    assert (given.mean, given.std, given.augment) == ((0, 0, 0), (1, 1, 1), None)


def test_a_path_object_and_a_constant_channel(parquet_folder, png):
    import pyarrow as pa
    import pyarrow.parquet as pq

    folder, _ = parquet_folder([0, 1], [0])
    black = [{"bytes": png(np.zeros((4, 4))), "path": None}] * 2
    for part in ("train", "test"):
        pq.write_table(pa.table({"image": black, "label": [0, 1]}), folder / f"{part}.parquet")
    data = load(folder)
    assert data.std == (1 / 255,)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"name": "digit"}, "got digit, and no such path is there. Way out: did you mean digits"),
        ({"name": "./nowhere"}, "must be a folder or parquet files that exist; got ./nowhere"),
        ({"train_size": 0}, "train_size must be at least 1; got 0"),
        ({"test_size": 501}, "must not exceed the 500 images there are; got test_size=501"),
        ({"train_size": 1200, "validation": 98}, "1,297 images there are.*validation=98"),
        ({"validation": 1.0}, r"a share in \[0, 1\); got 1.0"),
        ({"validation": -1}, "number of images or a share"),
        ({"train_size": 4, "validation": 0.1}, "got validation=0.1 of 4. Way out.*validation=1"),
        ({"num_classes": 9}, "below num_classes=9; got 9 in row 7 of digits"),
        ({"mean": (0.1, 0.2)}, "mean must be 1 numbers"),
        ({"std": (0.0,)}, "std must be 1 numbers, one per channel, positive"),
        ({"augment": "flip"}, "unknown augmentation"),
        ({"size": 16}, "the digits are 8 x 8; got size=16"),
    ],
)
def test_what_cannot_work_is_refused(options, rule):
    with pytest.raises(SteppeError, match=rule):
        load(**({"name": "digits"} | options))
