"""What is written down is validated: no key that is not known, no value of another type."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from steppe.core.errors import SteppeError, unknown


class Strict(BaseModel):
    """A part of a recipe."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


def refused(kind: type[BaseModel], error: ValidationError, where: str) -> SteppeError:
    """The first of pydantic's errors in one line.

    Args:
        kind: the recipe's class.
        error: what it raised.
        where: the data were read, for the message.
    """
    first = error.errors()[0]
    place = ".".join(map(str, first["loc"]))
    cause = first.get("ctx", {}).get("error")
    if isinstance(cause, SteppeError):
        return cause
    if first["type"] == "extra_forbidden":
        *path, last = first["loc"]
        near = unknown("key", last, _keys(kind, tuple(path))).way_out
        return SteppeError(f"unknown key in {where}", got=repr(place), way_out=near)
    return SteppeError(
        f"{where} must have {place} right", got=f"{first['input']!r} ({first['msg']})"
    )


def _keys(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """The keys that there are at a place of a recipe."""
    for key in place:
        annotation = kind.model_fields[str(key)].annotation
        kind = next(k for k in (annotation, *get_args(annotation)) if hasattr(k, "model_fields"))
    return list(kind.model_fields)
