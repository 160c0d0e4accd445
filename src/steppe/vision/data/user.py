"""Images from the user's own code, named ``package.module:function``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from steppe.core.errors import SteppeError
from steppe.core.seeded import seeded
from steppe.core.user_code import found
from steppe.vision.augment.transform import as_image
from steppe.vision.data.base import Source
from steppe.vision.data.blobs import Blobs
from steppe.vision.data.encoded import Encoded, source
from steppe.vision.data.levels import Reading
from steppe.vision.data.split_names import TEST_NAMES
from steppe.vision.streaming.faults import naming, of_user

_PAIR = 2


def from_user(name: str, reading: Reading) -> Source:
    """Two map-style datasets of torch, as the user's function gives them.

    An item is an image (Pillow's, or a uint8 tensor ``[c, h, w]``) and its label: a pair, or a
    mapping with ``image`` and ``label``. Labels are wanted before any image: a dataset with a list
    ``targets`` or ``labels`` is not read for them. Items may depend on their number, and on what
    they draw from the generators of Python, numpy and torch. These are set before an item is read,
    and put back after it: where images are streamed, from (seed, epoch, number); where they are
    kept in memory, and where items are read for their labels, from the number alone, as that is
    done once for all seeds and epochs.

    Args:
        name: of the function; called with nothing, it gives ``{"train": ..., "test": ...}``.
        reading: how images become pixels.

    Raises:
        SteppeError: no such function, or it gives something else.
    """
    given = found(name)()
    splits = given if isinstance(given, Mapping) else {}
    test = next((split for split in TEST_NAMES if split in splits), None)
    if "train" not in splits or test is None:
        raise SteppeError(
            "a function of data gives a mapping of train and test",
            got=f"{type(given).__name__} from {name}"
            + (f" with {', '.join(map(str, splits))}" if splits else ""),
            way_out='return {"train": dataset, "test": dataset}',
        )
    notes: list[str] = []
    parts = [
        _encoded(part, splits[split], f"{split} of {name}", notes)
        for part, split in (("train", "train"), ("test", test))
    ]
    classes = getattr(splits["train"], "classes", ())
    return source(parts[0], parts[1], reading, tuple(map(str, classes)), notes)


class Items(Blobs):
    """The images of a map-style dataset."""

    def __init__(self, dataset: Any, of: str) -> None:
        self.dataset, self.of = dataset, of

    def __len__(self) -> int:
        return len(self.dataset)

    def blob(self, row: int) -> Image.Image:
        return self.drawn(row, row)

    def drawn(self, row: int, seed: int) -> Image.Image:
        with naming(lambda: self.describe(row)):
            return as_image(self._pair(row, seed)[0], self.describe(row))

    def label(self, row: int) -> object:
        """Of an item, where the dataset has no list of labels."""
        with naming(lambda: self.describe(row)):
            return self._pair(row, row)[1]

    def _pair(self, row: int, seed: int) -> tuple[Any, Any]:
        with of_user(self.dataset), seeded(seed):
            item = self.dataset[row]
        return _pair(item, self.describe(row))

    def describe(self, row: int) -> str:
        return f"item {row} of {self.of}"


def _pair(item: Any, name: str) -> tuple[Any, Any]:
    if isinstance(item, Mapping) and {"image", "label"} <= item.keys():
        return item["image"], item["label"]
    if isinstance(item, tuple | list) and len(item) == _PAIR:
        return item[0], item[1]
    raise SteppeError(
        "an item of a dataset is an image and its label",
        got=f"{type(item).__name__} as {name}",
        way_out='return image, label, or {"image": image, "label": label}',
    )


def _encoded(part: str, dataset: Any, of: str, notes: list[str]) -> Encoded:
    if not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset)):
        raise SteppeError(
            "a dataset of yours has a length of 1 or more, and items by their number",
            got=f"{type(dataset).__name__} as {of}",
            way_out="a map-style torch.utils.data.Dataset",
        )
    items = Items(dataset, of)
    labels: Sequence[object] | None = getattr(dataset, "targets", getattr(dataset, "labels", None))
    if labels is None:
        notes.append(f"{part}: all {len(items)} items were read for their labels (no targets)")
        labels = [items.label(row) for row in range(len(items))]
    if len(labels) != len(items):
        raise SteppeError(
            "a dataset has one label for each item", got=f"{len(labels)} for {len(items)} in {of}"
        )
    plain = [label.item() if hasattr(label, "item") else label for label in labels]  # tensors
    return Encoded(name=part, labels=plain, blobs=items)
