"""Records are checked when they are written and when they are read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

from steppe.core.errors import SteppeError
from steppe.record.schema import SCHEMA_VERSION, RunRecord

_VERSION = "schema_version"


def stamped(record: Mapping[str, Any], display: str) -> dict[str, Any]:
    """A record as it is written: with its schema version and the method's display name.

    Args:
        record: every key of `RunRecord` but these two, and what the kind of run adds.
        display: the method's name in a report; an earlier ``method_display`` stays.

    Returns:
        The same keys and values, the two added.

    Raises:
        SteppeError: a key is missing or of another type.

    Example:
        >>> run = {"method": "safe", "recipe": {}, "sparsity_asked": 0.9, "sparsity_reached": 0.9,
        ...        "dense": {}, "sparse": {"accuracy": 0.97}, "seconds": 1.5, "seed": 0,
        ...        "peak_memory_bytes": 1, "versions": {}, "fallbacks": []}
        >>> stamped(run, "SAFE")["method_display"]
        'SAFE'
    """
    first = {_VERSION: SCHEMA_VERSION, "method": record.get("method"), "method_display": display}
    return checked(first | dict(record), "the record of this run")


def checked(record: Any, where: str) -> dict[str, Any]:
    """A record as it was read, which fits the schema.

    A record without ``schema_version`` is older than the schema: keys may be missing or null,
    ``method`` may be an object with a ``name``, and ``recipe`` a text.

    Args:
        record: what the JSON holds.
        where: it was read, for the message.

    Returns:
        The record itself, nothing changed or added.

    Raises:
        SteppeError: no JSON object; of a newer schema; a key is missing or of another type.

    Example:
        >>> checked({"method": "safe"}, "record.json")
        {'method': 'safe'}
    """
    if not isinstance(record, dict):
        raise SteppeError("a record must be one JSON object of a run", got=where)
    version = record.get(_VERSION)
    if isinstance(version, int) and version > SCHEMA_VERSION:
        raise SteppeError(
            f"this steppe reads records up to {_VERSION} {SCHEMA_VERSION}",
            got=f"{where}, whose {_VERSION} is {version}",
            way_out="a newer steppe: pip install -U steppe",
        )
    try:
        RunRecord.model_validate(record)
    except ValidationError as error:
        wrong = [e for e in error.errors() if version is not None or not _older(e)]
        if wrong:
            raise SteppeError(
                "a record must fit the schema of record.json",
                got=f"{where}: {_told(wrong[0])}",
                way_out="restore the file as it was written, or run it again",
            ) from None
    return record


def _older(error: Mapping[str, Any]) -> bool:
    """Whether a record from before the schema may be so: no value, or one of the older forms."""
    first, value = error["loc"][0], error["input"]
    return (
        error["type"] == "missing"
        or value is None
        or (first == "method" and isinstance(value, dict))
        or (first == "recipe" and isinstance(value, str))
    )


def _told(error: Mapping[str, Any]) -> str:
    """The key and what is wrong with it: ``sparse.loss: Input should be a valid number``."""
    key = ".".join(map(str, error["loc"]))
    shown = "" if error["type"] == "missing" else f", not {str(error['input'])[:40]!r}"
    return f"{key}: {error['msg']}{shown}"
