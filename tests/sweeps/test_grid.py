"""What a sweep runs: every combination once, each with a folder's name of its own."""

from __future__ import annotations

import itertools

import pytest

from steppe import SteppeError
from steppe.sweeps.grid import Variation, points

PARTS = ({"name": "sam", "rho": 0.1}, {"name": "sam", "rho": 0.2}, "none")


def test_the_product_once_with_names_of_their_own() -> None:
    varied = [
        Variation("method.perturb", PARTS),
        Variation("method.structure", ("2:4", "block:4x4")),
        Variation("seed", (0, 1)),
    ]
    every = list(points(varied))
    assert len({point.name for point in every}) == len(every) == 12
    assert not any(set(point.name) & set("/: ") for point in every)
    found = [tuple(map(str, point.values.values())) for point in every]
    wanted = itertools.product(*(map(str, variation.values) for variation in varied))
    assert sorted(found) == sorted(wanted)
    assert [point.values["seed"] for point in every] == [0] * 6 + [1] * 6, "a seed at a time"


def test_more_values_leave_the_names_of_others() -> None:
    few = {p.name for p in points([Variation("method.perturb", PARTS[:1])])}
    assert few < {p.name for p in points([Variation("method.perturb", PARTS)])}


def test_values_are_yaml() -> None:
    text = "method.x=1e-3,adam,2:4,null,{name: sam, rho: 0.1}"
    assert Variation.of(text).values == (1e-3, "adam", "2:4", None, {"name": "sam", "rho": 0.1})


@pytest.mark.parametrize("text", ["train.lr", "train.lr=", "=1", "train.lr=[1", "train.lr=1,1"])
def test_what_says_no_values_is_refused(text: str) -> None:
    with pytest.raises(SteppeError, match="--vary takes"):
        Variation.of(text)


@pytest.mark.parametrize("twice", [[], [Variation("seed", (0,)), Variation("seed", (1,))]])
def test_something_varies_and_once(twice: list[Variation]) -> None:
    with pytest.raises(SteppeError, match="varie"):
        list(points(twice))
