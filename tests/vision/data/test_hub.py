"""The hub's datasets, without the network: load_dataset is replaced."""

import numpy as np
import pytest
import torch
from PIL import Image

from steppe.core.errors import SteppeError
from steppe.vision.data import load
from steppe.vision.loader import Loader

datasets = pytest.importorskip("datasets")


def part(labels):
    features = {"picture": datasets.Image(), "kind": datasets.ClassLabel(names=["cat", "dog"])}
    pictures = [
        Image.fromarray(np.full((5, 5, 3), 10 + i, dtype=np.uint8)) for i in range(len(labels))
    ]
    return datasets.Dataset.from_dict(
        {"picture": pictures, "kind": labels}, features=datasets.Features(features)
    )


def answer(monkeypatch, what):
    def load_dataset(name, **options):
        assert name == "org/name"
        assert not options
        if isinstance(what, Exception):
            raise what
        return datasets.DatasetDict(what)

    monkeypatch.setattr(datasets, "load_dataset", load_dataset)


def test_columns_are_found_by_their_type(monkeypatch, tmp_path):
    answer(monkeypatch, {"train": part([0, 1, 1]), "validation": part([1, 0])})
    for _ in range(2):
        data = load("org/name", cache=tmp_path)
        assert data.train.images[:, 0, 0, 0].tolist() == [10, 11, 12]
        assert data.train.labels.tolist() == [0, 1, 1]
        assert (data.classes, data.num_classes, len(data.test)) == (("cat", "dog"), 2, 2)
        assert data.train.images.dtype == torch.uint8


@pytest.mark.parametrize(
    ("what", "rule"),
    [
        (ConnectionError("no route"), r"got org/name \(ConnectionError: no route\).*the network"),
        ({"train": part([0])}, "needs a train and a test split; got train in org/name"),
        (
            {p: datasets.Dataset.from_dict({"text": ["a"]}) for p in ("train", "test")},
            "a column of type Image; got text in org/name",
        ),
    ],
)
def test_errors_name_the_dataset(monkeypatch, what, rule):
    answer(monkeypatch, what)
    with pytest.raises(SteppeError, match=rule):
        load("org/name")


def test_a_split_whose_labels_are_secret_is_none_to_test_on(monkeypatch):
    """As ImageNet's test split."""
    secret = part([0, 1]).map(lambda row: {"kind": -1})
    answer(monkeypatch, {"train": part([0, 1, 1]), "test": secret, "validation": part([1, 0])})
    data = load("org/name", say=lambda note: None)
    assert data.test.labels.tolist() == [1, 0]
    assert "test has no labels: tested on validation" in data.notes
    answer(monkeypatch, {"train": part([0, 1]), "test": secret})
    with pytest.raises(SteppeError, match="those of test have no label"):
        load("org/name")


def test_a_hub_dataset_streams_from_where_it_is_cached(monkeypatch):
    answer(monkeypatch, {"train": part([0, 1, 1]), "validation": part([1, 0])})
    data = load("org/name", stream=True, augment="none", mean=(0,) * 3, std=(1,) * 3)
    x, y = next(Loader.of(data, "test", 2, workers=1).epoch(0))
    assert y.tolist() == [1, 0]
    assert (x[:, 0, 0, 0] * 255).round().tolist() == [10, 11]
