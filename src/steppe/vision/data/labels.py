"""Labels: checked once, and every selection of rows keeps the classes in proportion."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from steppe.core.errors import SteppeError


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
    values = np.asarray(labels)
    if values.dtype.kind not in "iu":
        bad = next(i for i, v in enumerate(labels) if not _whole(v))
        raise SteppeError("labels must be integers", got=f"{labels[bad]!r} in {describe(bad)}")
    limit = np.iinfo(np.int64).max if num_classes is None else num_classes
    wrong = (values < 0) | (values >= limit)
    if wrong.any():
        bad = int(wrong.argmax())
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
        SteppeError: more rows asked for than there are, or a size out of range.

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
    share = isinstance(held_out, float)
    k = round(held_out * (n if size is None else size)) if share else int(held_out)
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
