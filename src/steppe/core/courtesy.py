"""The order of every end: first the work is saved, then it is decorated."""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError

NOT_COMPUTED = "not_computed"
"""The key of a record that names what is missing from it; absent when nothing is."""

Decoration = Callable[[dict[str, Any]], None]
"""Adds to a record, in place."""


@contextlib.contextmanager
def courtesy(what: str) -> Iterator[list[str]]:
    """A block that may fail without ending anything; its failure is one line on standard error.

    Args:
        what: is computed in it, e.g. ``"the report"``.

    Yields:
        A list that gets the line if the block fails.

    Example:
        >>> with courtesy("the summary") as failure:
        ...     pass
        >>> failure
        []
    """
    failure: list[str] = []
    try:
        yield failure
    except Exception as error:
        text = f"{what}: not computed, {_told(error)}; what was done before is saved"
        failure.append(text)
        if os.environ.get("RANK", "0") == "0":
            print(f"steppe: {text}", file=sys.stderr, flush=True)


def _told(error: Exception) -> str:
    """A user's error in its own words, any other with the place that raised it."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, SteppeError):
        return f"since {text}"
    frames = traceback.extract_tb(error.__traceback__)
    place = f" at {Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else ""
    return f"an internal error ({type(error).__name__}: {text}{place})"


def decorated(
    record: Mapping[str, Any],
    decorations: Mapping[str, Decoration],
    save: Callable[[dict[str, Any]], None],
) -> dict[str, Any]:
    """Save a record, then add to it one decoration after the other, saving after each.

    So nothing that is computed for the reader can cost what the run has done. A decoration that
    fails leaves no half of itself: the record is as it was before, names it under
    ``not_computed`` and says why under ``fallbacks``.

    Args:
        record: what must be kept, whole by itself.
        decorations: what each computes -> how.
        save: writes a record; it is called once before any decoration.

    Returns:
        The record with all that could be computed.

    Example:
        >>> kept = []
        >>> decorated({"a": 1}, {"the sum": lambda r: r.update(b=r["a"] + 1)}, kept.append)
        {'a': 1, 'b': 2}
        >>> kept[0]
        {'a': 1, 'not_computed': ['the sum']}
    """
    missing, fallbacks = list(decorations), list(record.get("fallbacks", []))
    whole = _with(record, missing, fallbacks)
    save(whole)
    for what, decorate in decorations.items():
        left = [name for name in missing if name != what]
        with courtesy(what) as failure:
            grown = copy.deepcopy(whole)
            decorate(grown)
            grown = _with(grown, left, fallbacks)
            save(grown)
            whole, missing = grown, left
        fallbacks += failure
    if missing:
        whole = _with(whole, missing, fallbacks)
        with courtesy("the record's list of what is missing"):
            save(whole)
    return whole


def _with(record: Mapping[str, Any], missing: list[str], fallbacks: list[str]) -> dict[str, Any]:
    whole = {key: value for key, value in record.items() if key != NOT_COMPUTED}
    if fallbacks:
        whole["fallbacks"] = list(fallbacks)
    return whole | ({NOT_COMPUTED: list(missing)} if missing else {})
