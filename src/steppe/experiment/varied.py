"""Places in a recipe, by the keys that lead there with dots between."""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import yaml

from steppe.core.errors import SteppeError, unknown
from steppe.core.text import read_yaml
from steppe.experiment.recipe import Recipe
from steppe.experiment.tasks import TASKS


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


def set_at(plain: dict[str, Any], place: str, value: Any, told: str) -> None:
    """Put a value at a dotted place of plain data, in place; what is no key, a recipe refuses.

    Args:
        plain: of a recipe.
        place: ``method.alpha``, ``train.optimizer_groups.0.lr``.
        value: any plain data.
        told: what the user wrote, for the message, which begins with the flag.

    Raises:
        SteppeError: nothing can stand at the place.

    Example:
        >>> plain = {"train": {"groups": [{"lr": 0.1}]}}
        >>> set_at(plain, "train.groups.0.lr", 0.2, "--set train.groups.0.lr=0.2")
        >>> plain
        {'train': {'groups': [{'lr': 0.2}]}}
    """
    *path, last = place.split(".")
    node: Any = plain
    for key, below in pairwise([*path, last]):
        if isinstance(node, dict) and not below.isdigit():  # a list begins with what it holds
            node.setdefault(key, {})
        node = entries(node).get(key)
    if not last or not (isinstance(node, dict) or last in entries(node)):
        raise no_place(told, place)
    put(node, last, value)


def no_place(told: str, place: str) -> SteppeError:
    """The error for what is no ``key=value`` with a place that can be set; see `set_at`."""
    flag, _, text = told.partition(" ")
    listed = re.split(r"\.\d+(?:\.|$)", place)[0] if re.search(r"\.\d", place) else ""
    return SteppeError(
        f"{flag} takes key=value, keys of a recipe with dots between, of a list its numbers",
        got=repr(text) if "=" in text else f"{text!r} without =",
        way_out=f"the whole list, {flag} '{listed}=[...]'" if listed else f"{flag} train.lr=0.1",
    )


def change_by(plain: dict[str, Any], text: str) -> None:
    """Put what ``--set place.of.key=value`` says into plain data, in place.

    Raises:
        SteppeError: it says no key or no value in YAML.
    """
    place, equals, value = text.partition("=")
    if not equals:
        raise no_place(f"--set {text}", place)
    try:
        set_at(plain, place, read_yaml(value), f"--set {text}")
    except yaml.YAMLError as error:
        raise SteppeError(
            "--set takes a value in YAML",
            got=f"{text!r} ({error})",
            way_out=f"""text in quotes: --set '{place}="..."'""",
        ) from None


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
    made: Recipe = TASKS[recipe.task].load(plain, "the recipe", None)
    return made
