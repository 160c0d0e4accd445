"""Labels: checked once, and every selection of rows keeps the classes in proportion."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.data.base import Rows, Source

_SCATTERED = 2
"""From so many numbers to a label on, labels are taken for ids and numbered anew."""


@dataclass(frozen=True)
class Labels:
    """Checked labels of a dataset: 0..num_classes - 1.

    Args:
        train: [n], int64.
        test: [m], int64.
        num_classes: how many classes there are.
        classes: their names, empty where nothing gives them.
        notes: what was done to the stored labels, in sentences.
    """

    train: Tensor
    test: Tensor
    num_classes: int
    classes: tuple[str, ...]
    notes: list[str]


def labels_of(source: Source, num_classes: int | None) -> Labels:
    """The labels of a source, as numbers of classes.

    Lists of one label are that label. Texts are numbered in alphabetical order. Integers stay as
    they are, unless no number of classes is known and they are ids, far more apart than there are
    classes: these are numbered in ascending order.

    Args:
        source: with its labels as stored.
        num_classes: None takes what the source says, else what the training labels need.

    Raises:
        SteppeError: a label that is none, or a test label that no training image has.

    Example:
        >>> from steppe.vision.data.base import Rows
        >>> rows = [Rows(labels, lambda rows: None, str) for labels in (["dog", "cat"], ["dog"])]
        >>> made = labels_of(Source(*rows), None)
        >>> made.train, made.test, made.classes
        (tensor([1, 0]), tensor([1]), ('cat', 'dog'))
    """
    notes: list[str] = []
    train, test = (_single(rows, notes) for rows in (source.train, source.test))
    known, classes = num_classes or len(source.classes) or None, source.classes
    names: list[Any] | None = None
    if all(isinstance(label, str) for label in train) and train:
        names = sorted({str(label) for label in train})
        if 2 * len(names) > len(train) + 2:
            raise SteppeError(
                "a label must be that of several images",
                got=f"{len(names)} different texts for {len(train)} images, e.g. {names[0]!r}",
                way_out="store the class of each image in the column of labels",
            )
        notes.append(f"labels are {len(names)} texts: numbered in alphabetical order")
    elif known is None:
        values = check_labels(train, source.train.describe, None).unique().tolist()
        if values[-1] + 1 > _SCATTERED * len(values):
            names = values
            notes.append(
                f"labels are {len(names)} numbers from {names[0]} to {names[-1]}: taken for ids "
                f"and numbered in ascending order; num_classes={names[-1] + 1} keeps them as they "
                "are"
            )
    if names is not None:
        train, test = (
            _numbered(labels, names, rows.describe)
            for labels, rows in ((train, source.train), (test, source.test))
        )
        known, classes = known or len(names), tuple(map(str, names))
    own = check_labels(train, source.train.describe, known)
    known = known or int(own.max()) + 1
    made = Labels(own, check_labels(test, source.test.describe, known), known, classes, notes)
    notes += empty_classes(made.train, known, classes, "train")
    notes += empty_classes(made.test, known, classes, "test")
    return made


def _single(rows: Rows, notes: list[str]) -> Sequence[Any]:
    """The labels, one for each image, out of lists of one."""
    listed = [i for i, label in enumerate(rows.labels) if isinstance(label, list | tuple)]
    if not listed:
        return rows.labels
    single: list[Any] = list(rows.labels)
    for i in listed:
        if len(single[i]) != 1 or isinstance(single[i][0], list | tuple):
            raise SteppeError(
                "an image has one label",
                got=f"{single[i]!r} in {rows.describe(i)}",
                way_out="a column with one integer for each image",
            )
        single[i] = single[i][0]
    text = "labels are lists of one: the label in each is taken"
    notes += [] if text in notes else [text]
    return single


def _numbered(
    labels: Sequence[Any], names: Sequence[Any], describe: Callable[[int], str]
) -> list[int]:
    places = {name: place for place, name in enumerate(names)}
    for i, label in enumerate(labels):
        if label not in places:
            values = [*names, *labels]
            keep = ""
            if all(_whole(value) and value >= 0 for value in values):
                keep = f"; num_classes={max(values) + 1} takes all labels as they are"
            raise SteppeError(
                "a test image's label must be one that training images have",
                got=f"{label!r} in {describe(i)}",
                way_out=f"correct that row, or remove it{keep}",
            )
    return [places[label] for label in labels]


def empty_classes(labels: Tensor, num_classes: int, classes: Sequence[str], part: str) -> list[str]:
    """A note on the classes without an image of a split, if there are some.

    Example:
        >>> empty_classes(torch.tensor([0, 0]), 2, ("cat", "dog"), "train")
        ['train: no image of 1 of 2 classes: dog']
    """
    missing = (labels.bincount(minlength=num_classes) == 0).nonzero().flatten().tolist()
    if not missing:
        return []
    shown = ", ".join(classes[i] if i < len(classes) else str(i) for i in missing[:8])
    more = f" and {len(missing) - 8} more" if len(missing) > 8 else ""
    return [f"{part}: no image of {len(missing)} of {num_classes} classes: {shown}{more}"]


def check_labels(
    labels: Sequence[object], describe: Callable[[int], str], num_classes: int | None
) -> Tensor:
    """Labels as int64; an error names the first bad row.

    Args:
        labels: as stored.
        describe: row number -> words for the message.
        num_classes: labels must lie below; None where it is not known yet.

    Returns:
        [n], int64.

    Raises:
        SteppeError: no rows, or a label that is no integer, negative, or too large.

    Example:
        >>> check_labels([0, 2], "row {}".format, num_classes=3)
        tensor([0, 2])
    """
    if len(labels) == 0:
        raise SteppeError("a dataset must have rows", got="none")
    bad = next((i for i, v in enumerate(labels) if not _whole(v)), None)
    if bad is not None:
        raise SteppeError(
            "labels must be integers",
            got=f"{labels[bad]!r} in {describe(bad)}",
            way_out="store the number of each image's class, from 0; remove rows without one",
        )
    values = np.asarray(labels)
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes
    wrong = (values < 0) | (values >= limit)
    if wrong.any():
        bad = int(np.argmax(wrong))
        upper = "" if num_classes is None else f" and below num_classes={num_classes}"
        raise SteppeError(
            f"labels must be at least 0{upper}",
            got=f"{values[bad]} in {describe(bad)}",
            way_out="correct that row, or give num_classes",
        )
    return torch.from_numpy(values.astype(np.int64))


def _whole(value: object) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


def stratified_order(labels: Tensor, seed: int) -> Tensor:
    """A seeded order of the rows in which the first k rows have the classes in proportion.

    The j-th row of class c (in seeded random order, from 0) gets the key (j + 1/2) / n_c, and the
    rows are sorted by key: Webster's apportionment, so the first k rows hold k * n_c / n of
    class c within about one, and a smaller selection is part of a larger one.

    Args:
        labels: [n], int64, not negative.
        seed: of the random order within a class.

    Returns:
        Row numbers, [n], int64.

    Example:
        >>> y = torch.tensor([0] * 90 + [1] * 10)
        >>> y[stratified_order(y, seed=0)[:20]].bincount()
        tensor([18,  2])
    """
    n = len(labels)
    shuffled = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    rows = shuffled[labels[shuffled].argsort(stable=True)]
    counts = labels.bincount()
    of_class = labels[rows]
    rank = torch.arange(n) - (counts.cumsum(0) - counts)[of_class]
    key = (rank.double() + 0.5) / counts[of_class]
    return rows[key.argsort(stable=True)]


def images_of(held_out: float | int, count: int) -> int:
    """How many images are held out.

    Args:
        held_out: their number, or a float: that share of ``count``.
        count: of images.

    Raises:
        SteppeError: a share that comes to no image; nothing would be held out without a word.

    Example:
        >>> images_of(0.1, 25), images_of(3, 25), images_of(0.0, 25)
        (2, 3, 0)
    """
    if not isinstance(held_out, float):
        return held_out
    number = round(held_out * count)
    if held_out > 0 and not number:
        raise SteppeError(
            "a share of the images that is held out must come to an image or more",
            got=f"validation={held_out:g} of {count}",
            way_out="a number of images, validation=1 (data.validation in a recipe, "
            "--set data.validation=1)",
        )
    return number


def select(
    labels: Tensor, size: int | None, held_out: float | int, seed: int, what: str = "train"
) -> tuple[list[int], list[int]]:
    """Rows to use and rows to hold out, disjoint, stratified, each in stored order.

    The held-out rows are taken first: with a whole number they are the same for every ``size``.

    Args:
        labels: [n], int64.
        size: rows to use; None takes all that are not held out.
        held_out: a number of rows, or a float in [0, 1): that share of ``size`` (of n without it).
        seed: of the selection.
        what: name of the split, for messages.

    Returns:
        Row numbers to use, row numbers held out.

    Raises:
        SteppeError: more rows asked for than there are, a size out of range, or a share to hold
            out that comes to no row.

    Example:
        >>> train, validation = select(torch.tensor([0, 1] * 50), size=20, held_out=10, seed=0)
        >>> len(train), len(validation), set(train) & set(validation)
        (20, 10, set())
    """
    n = len(labels)
    if size is not None and size < 1:
        raise SteppeError(f"{what}_size must be at least 1", got=size)
    if held_out < 0 or (isinstance(held_out, float) and held_out >= 1):
        raise SteppeError(
            "validation must be a number of images or a share in [0, 1)",
            got=held_out,
            way_out="0.1 for 10 %, 5000 for 5,000 images",
        )
    k = images_of(held_out, n if size is None else size)
    asked = k + (1 if size is None else size)
    if asked > n:
        raise SteppeError(
            f"{what}_size plus validation must not exceed the {n:,} images there are",
            got=f"{what}_size={size}, validation={k}",
            way_out=f"ask for at most {n:,} in all",
        )
    if size is None and k == 0:
        return list(range(n)), []
    order = stratified_order(labels, seed)
    used = order[k:] if size is None else order[k : k + size]
    return sorted(used.tolist()), sorted(order[:k].tolist())
