"""What is written down is validated: no key that is not known, no value of another type."""

from __future__ import annotations

from collections.abc import Iterator
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
        f"{where} must have {place} right",
        got=f"{first['input']!r} ({first['msg']})",
        way_out=f"another value in the recipe, or --set {place}=VALUE",
    )


def places(kind: type[BaseModel], above: str = "") -> Iterator[str]:
    """Every key of a recipe, by the keys that lead there with dots between.

    Args:
        kind: the recipe's class.
        above: what stands before each.

    Example:
        >>> from steppe.experiment.recipe import Recipe
        >>> {"train", "train.epochs", "data.label_noise.rate"} <= set(places(Recipe))
        True
    """
    for key, field in kind.model_fields.items():
        yield f"{above}{key}"
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                yield from places(inner, f"{above}{key}.")


def _keys(kind: Any, place: tuple[Any, ...]) -> list[str]:
    """The keys that there are at a place of a recipe."""
    for key in place:
        annotation = kind.model_fields[str(key)].annotation
        kind = next(k for k in (annotation, *get_args(annotation)) if hasattr(k, "model_fields"))
    return list(kind.model_fields)
