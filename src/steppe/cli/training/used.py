"""Options of a method that change nothing, since their part was exchanged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.experiment.method_spec import spelled_out
from steppe.method import Method
from steppe.methods import METHODS


class HasMethod(Protocol):
    """A recipe of any task."""

    method: dict[str, Any]

    def build_method(self) -> Method: ...
    def model_copy(self, *, update: Mapping[str, Any]) -> Any: ...


def check_used(made: HasMethod, given: Mapping[str, Any]) -> list[str]:
    """Refuse a flag of a part that was exchanged; notes on such options of the recipe.

    Those stay, since a recipe may exchange a part of its base, which has the option.
    """
    notes = []
    for key, axis in (_idle(made) | _idle_defaults(made, given)).items():
        option, part = f"{key} {made.method[key]}", getattr(made.build_method(), axis).name
        if given.get(key) is not None:
            raise SteppeError(
                f"--{key} must have a part in the method",
                got=f"{option}, of a part that was exchanged for {axis} {part}",
                way_out=f"leave --{key} out; steppe methods {part} shows that part's own options",
            )
        notes.append(f"method.{option} changes nothing: its part was exchanged for {axis} {part}")
    return notes


def _idle(made: HasMethod) -> dict[str, str]:
    """Options of the method that change nothing -> the axis in which their part was exchanged."""
    spec = made.method
    if spelled_out(spec):
        return {}
    own = METHODS[str(spec["name"])].options
    axes = [axis.registry.kind for axis in AXES if axis.registry.kind in spec]
    exchanged = [axis for axis in axes if axis not in own or axis == "objective"]
    given = [k for k in spec if k in own and k not in exchanged and spec[k] != own[k].default]
    return {
        key: axis
        for key in given
        for axis in exchanged
        if _without(made, key) == _without(made)
        and _without(made, key, axis) != _without(made, axis)
    }


def _idle_defaults(made: HasMethod, given: Mapping[str, Any]) -> dict[str, str]:
    """Of flags whose numbers are the defaults those that would change nothing as others either."""
    found: dict[str, str] = {}
    for key, value in made.method.items():
        if given.get(key) is not None and isinstance(value, int | float):
            other = {"method": made.method | {key: type(value)(value / 2)}}
            axis = _idle(made.model_copy(update=other)).get(key)
            if axis is not None:
                found[key] = axis
    return found


def _without(made: HasMethod, *keys: str) -> Method | None:
    """The recipe's method when it does not say these; None where that is none."""
    rest = {k: v for k, v in made.method.items() if k not in keys}
    try:
        method: Method = made.model_copy(update={"method": rest}).build_method()
        return method
    except SteppeError:
        return None
