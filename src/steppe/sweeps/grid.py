"""Which settings a sweep runs: the product of what is varied, each with a name."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import yaml

from steppe.core.errors import SteppeError
from steppe.core.text import read_yaml

SEED = "seed"
"""The place of a recipe over which the settings of a sweep are averaged."""


@dataclass(frozen=True)
class Variation:
    """A place of a recipe, and the values that it takes.

    Args:
        place: with dots between its keys.
        values: plain data, each another one.
    """

    place: str
    values: tuple[Any, ...]

    @classmethod
    def of(cls, text: str, flag: str = "--vary") -> Variation:
        """What a flag says.

        Args:
            text: ``place=value,value``, values in YAML.
            flag: for messages.

        Raises:
            SteppeError: it says no place, no value, or one value twice.

        Example:
            >>> Variation.of("method.penalty=1e-3,1e-2")
            Variation(place='method.penalty', values=(0.001, 0.01))
        """
        place, _, listed = text.partition("=")
        try:
            values = read_yaml(f"[{listed}]")
        except yaml.YAMLError:
            values = []
        if not place or not values:
            raise SteppeError(
                f"{flag} takes key=value,value, values in YAML",
                got=repr(text),
                way_out=f"{flag} train.lr=1e-4,3e-4",
            )
        seen = [json.dumps(value, default=str) for value in values]
        twice = next((text for text in seen if seen.count(text) > 1), None)
        if twice is not None:
            raise SteppeError(f"{flag} takes each value once", got=f"{twice} twice for {place}")
        return cls(place, tuple(values))

    @property
    def labels(self) -> list[str]:
        """What each value is called in the name of a folder; no two are called alike.

        Example:
            >>> Variation("method.structure", ("2:4", "block:4x4")).labels
            ['2-4', 'block-4x4']
        """
        short = [_label(value) for value in self.values]
        return [
            text if short.count(text) == 1 else f"{text}-{_digest(value)}"
            for text, value in zip(short, self.values, strict=True)
        ]


@dataclass(frozen=True)
class Point:
    """One run of a sweep.

    Args:
        name: of its folder.
        values: place -> value.
    """

    name: str
    values: dict[str, Any]

    @property
    def setting(self) -> dict[str, Any]:
        """What it shares with its other seeds."""
        return {place: value for place, value in self.values.items() if place != SEED}


def points(varied: Sequence[Variation]) -> Iterator[Point]:
    """The product: every setting with the first seed, then with the next.

    Args:
        varied: each of another place; the last one varies fastest, the seed slowest.

    Raises:
        SteppeError: nothing is varied, or one place twice.

    Example:
        >>> two = [Variation("train.lr", (0.1, 0.2)), Variation("seed", (0, 1))]
        >>> [point.name for point in points(two)]
        ['lr=0.1_seed=0', 'lr=0.2_seed=0', 'lr=0.1_seed=1', 'lr=0.2_seed=1']
    """
    places = [variation.place for variation in varied]
    if not places:
        raise SteppeError("a sweep varies something", way_out="--vary train.lr=1e-4,3e-4")
    for place in places:
        if places.count(place) > 1:
            raise SteppeError(
                "a place is varied once", got=f"{place} twice", way_out=f"--vary {place}=A,B"
            )
    keys = short_names(places)
    slow_first = sorted(varied, key=lambda variation: variation.place != SEED)
    for chosen in itertools.product(*(zip(v.values, v.labels, strict=True) for v in slow_first)):
        found = {v.place: one for v, one in zip(slow_first, chosen, strict=True)}
        name = "_".join(f"{keys[place]}={found[place][1]}" for place in places)
        yield Point(name, {place: found[place][0] for place in places})


def short_names(places: Sequence[str]) -> dict[str, str]:
    """Place -> its last key, where no other place ends alike; else all of it.

    Example:
        >>> short_names(["train.lr", "method.name", "model.name"])
        {'train.lr': 'lr', 'method.name': 'method.name', 'model.name': 'model.name'}
    """
    last = {place: place.rpartition(".")[2] for place in places}
    ends = list(last.values())
    return {place: key if ends.count(key) == 1 else place for place, key in last.items()}


def shown(value: Any) -> str:
    """A value in a few letters, for tables: of a part with options its name.

    Example:
        >>> shown(1e-05), shown("adam"), shown(None), shown({"name": "sam", "rho": 0.1})
        ('1e-05', 'adam', 'null', 'sam (rho 0.1)')
    """
    if isinstance(value, dict) and "name" in value:
        rest = ", ".join(f"{key} {shown(v)}" for key, v in value.items() if key != "name")
        return f"{value['name']} ({rest})" if rest else str(value["name"])
    if isinstance(value, float):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _label(value: Any) -> str:
    named = value["name"] if isinstance(value, dict) and "name" in value else shown(value)
    text = re.sub(r"[^\w.+-]+", "-", str(named)).strip("-.")
    if isinstance(value, dict) and len(value) > 1:
        text += f"-{_digest(value)}"  # whatever else it is compared with, now or later
    return text if 0 < len(text) <= 40 else _digest(value)


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, default=str).encode()).hexdigest()[:8]
