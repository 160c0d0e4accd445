"""Short runs that choose options for a whole one: a grid around what a recipe says."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.experiment import base
from steppe.experiment.tasks import task_of
from steppe.experiment.varied import entries, set_at
from steppe.sweeps.grid import Variation, shown
from steppe.sweeps.results import Setting

USUAL = ("method.penalty", "train.lr")
"""What is tuned where the user does not say, as far as the recipe has numbers there."""
TUNED = "tuned.yaml"


def number_at(recipe: Mapping[str, Any], place: str) -> int | float | None:
    """What a recipe has at a dotted place, where that is a number.

    Example:
        >>> number_at({"train": {"lr": 0.1}}, "train.lr"), number_at({"train": {}}, "train.lr")
        (0.1, None)
    """
    node: Any = recipe
    for key in place.split("."):
        node = entries(node).get(key)
    return node if type(node) in (int, float) else None


def around(recipe: Mapping[str, Any], place: str, factor: float) -> Variation:
    """A number of the recipe, and it divided and multiplied by a factor.

    Args:
        recipe: as plain data.
        place: of the number.
        factor: above 1.

    Raises:
        SteppeError: there is no number other than 0.

    Example:
        >>> around({"train": {"lr": 0.1}}, "train.lr", 2)
        Variation(place='train.lr', values=(0.05, 0.1, 0.2))
    """
    value = number_at(recipe, place)
    if not value:
        raise SteppeError(
            "a grid is made around a number of the recipe",
            got=f"{place}, which is none or 0",
            way_out=f"say the values: --over {place}=A,B,C",
        )
    if factor <= 1:
        raise SteppeError("--factor is above 1", got=f"{factor:g}", way_out="--factor 3")
    three = (value / factor, value, value * factor)
    return Variation(place, tuple(float(f"{v:.3g}") for v in three))  # as people write 0.1 / 3


def grid(recipe: Mapping[str, Any], over: Sequence[str], factor: float) -> list[Variation]:
    """What a tuning varies.

    Args:
        recipe: as plain data.
        over: places, or places with their values; of none those of `USUAL`.
        factor: between neighbours where no values are given.

    Raises:
        SteppeError: there is nothing to vary.
    """
    places = list(over) or [place for place in USUAL if number_at(recipe, place)]
    return [
        Variation.of(text, "--over") if "=" in text else around(recipe, text, factor)
        for text in places
    ]


def at_an_edge(best: Setting, varied: Sequence[Variation]) -> list[str]:
    """Places whose best value is the least or largest that was tried, with that value.

    Args:
        best: the best setting.
        varied: what was tried.

    Example:
        >>> lr = Variation("train.lr", (0.1, 0.2, 0.4))
        >>> at_an_edge(Setting(values={"train.lr": 0.4}, runs=()), [lr])
        ['train.lr 0.4']
    """
    found = []
    for variation in varied:
        numbers = [v for v in variation.values if type(v) in (int, float)]
        value = best.values.get(variation.place)
        if len(numbers) > 1 and value in (min(numbers), max(numbers)):
            found.append(f"{variation.place} {shown(value)}")
    return found


def write_tuned(path: Path, parent: str, recipe: Mapping[str, Any], best: Setting) -> None:
    """A recipe with what was found; all else is its base's.

    Args:
        path: of the file.
        parent: the base: a name of steppe recipes, or an absolute path.
        recipe: that is tuned, whole, with what the user set.
        best: the values that were found.
    """
    tuned: Any = yaml.safe_load(yaml.safe_dump(dict(recipe)))
    for place, value in best.values.items():
        set_at(tuned, place, value, f"--over {place}={shown(value)}")
    task = task_of(tuned)
    wanted = task.load(tuned, "the recipe", None).plain()
    before = task.load(base.whole({base.KEY: parent}), parent, None).plain()
    own = {base.KEY: parent} | _more(before, wanted)
    text = "# found by steppe tune: " + ", ".join(f"{p} {shown(v)}" for p, v in best.values.items())
    write_text(path, f"{text}\n{yaml.safe_dump(own, sort_keys=False)}")
    written = task.load(own, str(path), path.parent).plain()
    assert written == wanted, f"{path} says something else than what was found"


def _more(before: Mapping[str, Any], wanted: Mapping[str, Any]) -> dict[str, Any]:
    """What a recipe says beside its base; a part of another name says everything."""
    found: dict[str, Any] = {}
    for key in [*wanted, *(key for key in before if key not in wanted)]:
        old, new = before.get(key), wanted.get(key)
        if old == new:
            continue
        nested = isinstance(old, dict) and isinstance(new, dict)
        alike = nested and new.get("name") == old.get("name")  # type: ignore[union-attr]
        found[key] = _more(old, new) if alike else new  # type: ignore[arg-type]
    return found
