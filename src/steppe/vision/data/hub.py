"""Image datasets of the Hugging Face hub."""

from __future__ import annotations

from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.hub_names import silent_retries
from steppe.core.optional_import import require
from steppe.vision.data.base import Source
from steppe.vision.data.blobs import Blobs
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.levels import Reading
from steppe.vision.data.parquet import HIDDEN
from steppe.vision.data.split_names import TEST_NAMES

_AS_STORED = Reading()


def hub(name: str, reading: Reading = _AS_STORED) -> Source:
    """A dataset by its hub id; the network is used unless it lies in the hub's cache already.

    The image column is the first of type Image, the label column the first of type ClassLabel.

    Args:
        name: ``org/name``.
        reading: how images become pixels.

    Returns:
        The source.

    Raises:
        SteppeError: it cannot be loaded, or lacks a train or test split, images or class labels.
    """
    datasets = require("datasets", install="'steppe[hub]'", purpose="loading a hub dataset")
    try:
        with silent_retries():
            splits = datasets.load_dataset(name)
    except Exception as error:  # no network, no such id, a script: many kinds, one answer
        raise SteppeError(
            "a hub dataset must be one that datasets.load_dataset can load",
            got=f"{name} ({type(error).__name__}: {str(error)[:300]})",
            way_out="check the id and the network, or give a local folder of parquet files",
        ) from error
    rule = "a dataset needs a train and a test split"
    if "train" not in splits:
        raise SteppeError(rule, got=f"{', '.join(splits)} in {name}")
    features = splits["train"].features
    image = _first(features, datasets.Image, name)
    label = _first(features, datasets.ClassLabel, name)
    there = [split for split in TEST_NAMES if split in splits]
    hidden = [split for split in there if all(one == HIDDEN for one in splits[split][label])]
    test = next((split for split in there if split not in hidden), None)
    if test is None:
        secret = f" (those of {', '.join(hidden)} have no label)" if hidden else ""
        raise SteppeError(rule, got=f"{', '.join(splits)} in {name}{secret}")
    notes = [f"{split} has no labels: tested on {test}" for split in hidden]

    def encoded(split: str, part: str) -> Encoded:
        table = splits[split].cast_column(image, datasets.Image(decode=False))
        # The fingerprint names the content; without one the images are simply decoded again.
        key = str(getattr(table, "_fingerprint", ""))
        blobs = _Table(table, image, f"{split} of {name}", key)
        return Encoded(name=part, labels=list(table[label]), blobs=blobs)

    names = tuple(features[label].names)
    return source(encoded("train", "train"), encoded(test, "test"), reading, names, notes)


class _Table(Blobs):
    """Images in a column of a dataset, which is mapped into memory."""

    def __init__(self, table: Any, image: str, of: str, fingerprint: str) -> None:
        self.table, self.image, self.of, self.fingerprint = table, image, of, fingerprint

    def __len__(self) -> int:
        return len(self.table)

    def blob(self, row: int) -> bytes:
        data = self.table[row][self.image]["bytes"]
        if not isinstance(data, bytes):
            raise SteppeError("a hub dataset must embed its images", got=self.describe(row))
        return data

    def describe(self, row: int) -> str:
        return f"row {row} of {self.of}"

    def key(self) -> str:
        return self.fingerprint


def _first(features: Any, kind: type, name: str) -> str:
    for column, feature in features.items():
        if isinstance(feature, kind):
            return str(column)
    raise SteppeError(
        f"an image dataset needs a column of type {kind.__name__}",
        got=f"{', '.join(features)} in {name}",
        way_out="save it as parquet with the columns image and label, and give that folder",
    )
