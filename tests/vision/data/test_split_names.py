"""Which split a name says, and which names say several."""

from __future__ import annotations

import pytest

from steppe.core.errors import SteppeError
from steppe.vision.data.split_names import split_of


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"),
        ("train-000.tar", "train"),
        ("training-000", "train"),
        ("train-256-valid-images.tar", "train"),
        ("train_224px_test_time_crop.tar", "train"),
        ("train-00000-of-00010.parquet", "train"),
        ("train-train-000", "train"),
        ("train_cats_and_dogs_test_time", "train"),
        ("train-invalid-removed", "train"),
        ("test-crops-of-train", "test"),
        ("test-standard-train", "test"),
        ("valid", "valid"),
        ("val2017", "val"),
        ("validation-1.tar", "validation"),
        ("latest", ""),
        ("all-train-and-test", ""),
    ],
)
def test_a_name_is_of_the_split_it_begins_with(name: str, split: str) -> None:
    assert split_of(name) == split


@pytest.mark.parametrize(
    "name",
    [
        "trainval",
        "trainval-000.tar",
        "train_val",
        "train-test.tar",
        "test.train",
        "train+val",
        "train & test",
        "train_and_test-000",
        "training_and_testing",
        "train_images_and_test_images",
        "train2017_val2017",
        "trainset-testset",
        "train-train-test",
    ],
)
def test_splits_that_are_joined_are_refused(name: str) -> None:
    with pytest.raises(SteppeError, match="one split") as caught:
        split_of(name, "some/folder")
    assert "in some/folder" in str(caught.value)
