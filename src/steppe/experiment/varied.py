"""Places in a recipe, by the keys that lead there with dots between."""

from __future__ import annotations

from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.experiment.recipe import Recipe, parse


def entries(place: Any) -> dict[str, Any]:
    """What lies at a place: of a mapping by its keys, of a list by the numbers from 0.

    Example:
        >>> entries([0.1, {"lr": 0.2}]), entries(0.1)
        ({'0': 0.1, '1': {'lr': 0.2}}, {})
    """
    if isinstance(place, list):
        return {str(i): value for i, value in enumerate(place)}
    return place if isinstance(place, dict) else {}


def put(place: Any, key: str, value: Any) -> None:
    """Set an entry of a mapping or a list; that of a list must be there."""
    place[int(key) if isinstance(place, list) else key] = value


def varied(recipe: Recipe, option: str, value: float) -> Recipe:
    """The recipe with another number at a dotted place.

    Args:
        recipe: of which.
        option: the place: ``train.weight_decay``, ``train.optimizer_groups.0.weight_decay``.
        value: the number.

    Raises:
        SteppeError: there is no such number.

    Example:
        >>> from steppe.experiment.recipe import load_recipe
        >>> varied(load_recipe("digits"), "train.lr", 0.5).train.lr
        0.5
    """
    plain = recipe.plain()
    place: Any = plain
    *path, last = option.split(".")
    for key in path:
        place = entries(place).get(key)
    there = entries(place)
    if not isinstance(there.get(last), int | float):
        numbers = [".".join([*path, k]) for k, v in there.items() if type(v) in (int, float)]
        raise (
            unknown("number in the recipe", option, numbers)
            if numbers
            else SteppeError(
                "--option names a number in the recipe", got=option, way_out="train.weight_decay"
            )
        )
    put(place, last, value)
    return parse(plain)
