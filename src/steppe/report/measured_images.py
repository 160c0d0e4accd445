"""Which images a run was measured on: only runs on the same ones are compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steppe.core.errors import SteppeError
from steppe.report.level import at, level_of
from steppe.report.record import Record, display, find

_OF_ALL = ("size", "resize", "classes", "skip_invalid")
_OF_TESTED = ("test_split", "test_size")
_OF_OTHERS = ("train_split", "train_size", "validation", "seed")
"""Of a recipe's data: what decides which images of a part are seen, and how large they are."""
_MOST = 3  # kinds of images that a message names


def chosen_by(data: Mapping[str, Any], part: Any) -> dict[str, Any]:
    """What decides which images of some data are in a part, and how large they are.

    Args:
        data: of a recipe.
        part: of it, test or another one.

    Example:
        >>> own = chosen_by({"size": 64, "test_size": 8, "seed": 1, "train_size": 9}, "test")
        >>> [(key, value) for key, value in own.items() if value is not None]
        [('size', 64), ('test_size', 8), ('seed', 1)]
    """
    tested, drawn = part == "test", data.get("test_size") is not None
    keys = [*_OF_ALL, *(_OF_TESTED if tested else _OF_OTHERS), *["seed"] * (tested and drawn)]
    if part == "validation" and not isinstance(data.get("validation"), float):
        keys.remove("train_size")  # only of a share it decides how many are held out
    return {key: data.get(key) for key in keys}


def check_same_images(records: Sequence[Record]) -> None:
    """Whether what runs reached stands beside each other; of what records do not say, nothing.

    Args:
        records: of the runs of one report.

    Raises:
        SteppeError: they were measured on other images, or on images of another size.
    """
    known = [(record, own) for record in records if (own := _measured(record))]
    keys = dict.fromkeys(key for _, own in known for key in own)
    differ = [key for key in keys if len({own[key] for _, own in known if key in own}) > 1]
    if not differ:
        return
    first: dict[str, str] = {}
    for record, own in known:
        images = ", ".join(f"{key} {own[key]}" for key in differ if key in own)
        first.setdefault(images, f"{display(record)}{at(level_of(record))}: {images}")
    more = f"; and {len(first) - _MOST} more" if len(first) > _MOST else ""
    raise SteppeError(
        "a report compares runs that were measured on the same images",
        got="; ".join(list(first.values())[:_MOST]) + more,
        consequence="their means would say nothing of the methods",
        way_out="one report for each, or train again with the same data",
    )


def _measured(record: Record) -> dict[str, str]:
    """Of a run on images, what decides on which it was measured; as text, to be compared."""
    data = find(record, "recipe.data")
    if not isinstance(data, Mapping) or "test_size" not in data:
        return {}
    part = record.get("evaluated_on") or find(record, "recipe.evaluate")
    if part is None:
        return {}
    said = {key: value for key, value in chosen_by(data, part).items() if key in data}
    own = {"part": part} | said  # what an earlier version did not know is no difference
    return {key.replace("_", " "): str(value) for key, value in own.items()}
