"""Datasets with a column of objects, saved as the hub has them."""

import pickle
import tracemalloc

import numpy as np
import pytest
import torch
from PIL import Image

from steppe import SteppeError
from steppe.vision.detection.data import load
from steppe.vision.detection.targets import CROWD, DIFFICULT


@pytest.fixture
def folder(tmp_path):
    datasets = pytest.importorskip("datasets")
    features = datasets.Features(
        {
            "image": datasets.Image(),
            "objects": {
                "bbox": datasets.Sequence(datasets.Sequence(datasets.Value("float32"), length=4)),
                "category": datasets.Sequence(datasets.ClassLabel(names=["cat", "dog"])),
            },
        }
    )
    row = {"bbox": [[8.0, 4.0, 16.0, 8.0], [0.0, 0.0, 80.0, 40.0]], "category": [1, 0]}
    for split in ("train", "test"):
        rows = {"image": [Image.new("RGB", (80, 40))] * 2, "objects": [row] * 2}
        datasets.Dataset.from_dict(rows, features=features).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    return tmp_path


def test_objects_of_a_column(folder):
    data = load(f"hub:{folder}", say=str)
    assert data.classes == ("cat", "dog")
    wanted = [[0.1, 0.1, 0.3, 0.3, 1, 0], [0, 0, 1, 1, 0, 0]]
    torch.testing.assert_close(data.test.scenes[1].objects, torch.tensor(wanted))
    assert data.train.image(0).size == (80, 40)


def test_what_cannot_be_loaded_is_one_line(folder, tmp_path):
    with pytest.raises(SteppeError, match=r"--set data\.test_split=NAME, of train, test"):
        load(f"hub:{folder}", test_split="val", say=str)
    (tmp_path / "empty").mkdir()
    with pytest.raises(SteppeError, match="that the datasets library can load"):
        load(f"hub:{tmp_path / 'empty'}", say=str)


@pytest.mark.parametrize(
    ("objects", "extra", "said"),
    [
        ({"bbox": [[8, 4, 0, 8]], "category": [0]}, {}, "object 1 of row 0 .*, without area"),
        ({"bbox": [[8, 4, 99, 8]], "category": [0]}, {}, "object 1 of row 0 .*, outside its image"),
        ({"bbox": [[8, 4, 9]], "category": [0]}, {}, r"width and height; got \[8.*object 1 of row"),
        ({"bbox": [[8, 4, 9, 9]], "category": [0, 1]}, {}, "1 boxes and 2 categories in row 0"),
        ({"bbox": [[8, 4, 9, 9]], "category": [0]}, {"width": 81, "height": 40}, "as 81 x 40"),
    ],
)
def test_what_is_wrong_in_a_row_is_one_line(tmp_path, objects, extra, said):
    datasets = pytest.importorskip("datasets")
    rows = {"image": [Image.new("RGB", (80, 40))], "objects": [objects]}
    rows |= {key: [value] for key, value in extra.items()}
    for split in ("train", "test"):
        whole = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        whole.to_parquet(tmp_path / f"{split}.parquet")
    with pytest.raises(SteppeError, match=said) as refused:
        load(f"hub:{tmp_path}", say=str)
    assert "\n" not in str(refused.value)
    assert "Way out: " in str(refused.value)


def test_images_stay_on_disk_until_they_are_read(tmp_path):
    datasets = pytest.importorskip("datasets")
    draw = np.random.default_rng(0)
    noise = [
        Image.fromarray(draw.integers(0, 256, (256, 256, 3), dtype=np.uint8)) for _ in "x" * 24
    ]
    rows = {"image": noise, "objects": [{"bbox": [[8, 4, 9, 9]], "category": ["a"]}] * 24}
    whole = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
    for split in ("train", "test"):
        whole.to_parquet(tmp_path / f"{split}.parquet")
    load(f"hub:{tmp_path}", say=str)  # what is imported and made the first time is no image
    tracemalloc.start()
    try:
        data = load(f"hub:{tmp_path}", say=str)
        held, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    encoded = 256 * 256 * 3  # of one: noise cannot be compressed
    assert held < 2 * encoded < peak < 12 * encoded
    for row in (3, 1):
        assert np.array_equal(np.asarray(data.train.image(row)), np.asarray(noise[row]))
    assert [split.image(0).size for split in pickle.loads(pickle.dumps([data.test]))] == [
        (256, 256)
    ]


def test_a_row_without_an_image_and_one_whose_file_is_gone_are_one_line(tmp_path):
    datasets = pytest.importorskip("datasets")
    objects, text = [{"bbox": [[8, 4, 9, 9]], "category": ["a"]}], datasets.Value("string")
    kinds = {"bbox": [[datasets.Value("int64")]], "category": [text]}
    stored = {"bytes": datasets.Value("binary"), "path": text}
    features = datasets.Features({"image": stored, "objects": kinds})
    for cell, said in (
        ({"bytes": None, "path": None}, "encoded images; got none in row 0 of train"),
        (
            {"bytes": None, "path": str(tmp_path / "gone.png")},
            "must be there; got no row 0 of train",
        ),
    ):
        for split in ("train", "test"):
            rows = {"image": [cell], "objects": objects}
            whole = datasets.Dataset.from_dict(rows, features=features)
            whole.to_parquet(tmp_path / f"{split}.parquet")
        with pytest.raises(SteppeError, match=said):
            load(f"hub:{tmp_path}", say=str)


def rows_of(folder, objects):
    datasets = pytest.importorskip("datasets")
    for split in ("train", "test"):
        rows = {"image": [Image.new("RGB", (80, 40))], "objects": [objects]}
        whole = datasets.Dataset.from_dict(rows).cast_column("image", datasets.Image())
        whole.to_parquet(folder / f"{split}.parquet")


BOXES = {"bbox": [[8, 4, 9, 9]] * 4, "category": ["a"] * 4}
HARD, CROWDS = [False, True, False, True], [0, 0, 1, 1]


@pytest.mark.parametrize("crowd", ["iscrowd", "is_crowd"])
@pytest.mark.parametrize("hard", ["difficult", "is_difficult"])
@pytest.mark.parametrize("by_object", [False, True])
def test_difficult_objects_and_crowds_are_flagged(tmp_path, crowd, hard, by_object):
    objects = BOXES | {hard: HARD, crowd: CROWDS}
    if by_object:  # one mapping for each
        objects = [
            dict(zip(objects, own, strict=True)) for own in zip(*objects.values(), strict=True)
        ]
    rows_of(tmp_path, objects)
    data = load(f"hub:{tmp_path}", say=str)
    for part in (data.train, data.test):
        assert part.scenes[0].objects[:, 5].tolist() == [0, DIFFICULT, CROWD, CROWD]


def test_flags_of_some_objects_are_refused(tmp_path):
    rows_of(tmp_path, BOXES | {"iscrowd": [0, 1]})
    with pytest.raises(SteppeError, match="4 boxes and 2 of iscrowd in row 0 of train"):
        load(f"hub:{tmp_path}", say=str)
