"""The evolution itself, on a made-up distance from the dense model."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Budget, Levels

# two sizes, and one layer that has no other of its size
SHAPES = {f"h.{i}.{n}": (20, 10 + 10 * (n == "b")) for i in range(4) for n in "ab"} | {"z": (7, 9)}
LAYERS = {n: Layer(n, shape) for n, shape in SHAPES.items()}
SIZES = {n: x.numel for n, x in LAYERS.items()}
TOTAL = sum(SIZES.values())
SMALL = {"generations": 12, "offspring": 12, "survivors": (4, 1), "tokens": (10, 100)}


def made(**options: object) -> Budget:
    return Budget.make({"name": "evopress", "sparsity": 0.6} | SMALL | options)


class Distance:
    """Each layer the further, the higher its level; h.0.a counts most. Remembers its calls."""

    def __init__(self) -> None:
        self.calls: list[tuple[list[Levels], int, int]] = []

    def __call__(self, candidates: Sequence[Levels], tokens: int, draw: int) -> list[float]:
        self.calls.append(([dict(c) for c in candidates], tokens, draw))
        weight = {"h.0.a": 5.0, "h.3.b": -2.0}
        return [sum(weight.get(n, 0.0) * level for n, level in c.items()) for c in candidates]


def evolved(budget: Budget, rounds: range, best: Levels, distance: Distance) -> Levels:
    offers = budget.offers(LAYERS, SIZES, round(0.6 * TOTAL))
    for number in rounds:
        best = budget.better(best, number, offers, SIZES, distance)
        units = sum(offers[n][level] for n, level in best.items())
        assert units == round(0.6 * TOTAL), "each round keeps the exact count"
    return best


def start() -> Levels:
    return dict.fromkeys(SIZES, 0)


def test_levels_are_even_steps_around_the_uniform_counts() -> None:
    offers = made(step=0.1, levels=3).offers(LAYERS, SIZES, round(0.6 * TOTAL))
    assert offers["h.0.a"] == {k: 120 + 20 * k for k in range(-3, 4)}
    assert sum(offers[n][0] for n in SIZES) == round(0.6 * TOTAL)
    deep = made(step=0.1, levels=8).offers(LAYERS, SIZES, round(0.6 * TOTAL))["h.0.a"]
    assert deep == {k: 120 + 20 * k for k in range(-6, 4)}, "none below 0, none of everything"


def test_it_finds_what_matters_and_what_does_not() -> None:
    best = evolved(made(), range(12), start(), Distance())
    assert best["h.0.a"] == -4
    assert best["h.3.b"] == 4
    assert best["z"] == 0, "it has no other layer of its size"


def test_comparisons_are_as_the_paper_has_them() -> None:
    distance, budget = Distance(), made()
    best = evolved(budget, range(1), start(), distance)
    (first, few, _), (last, many, _) = distance.calls
    assert (len(first), few, len(last), many) == (12, 10, 5, 100)
    assert start() not in first, "offspring differ from their parent"
    assert all(first.count(c) == 1 for c in first)
    assert start() in last, "the parent is compared with the last ones"
    assert best in last
    for child in first:
        assert 2 <= sum(abs(level) for level in child.values()) <= 6
        for kind in "ab":
            assert sum(level for n, level in child.items() if n.endswith(kind)) == 0


def test_it_never_gets_worse() -> None:
    best, distance = start(), Distance()
    for number in range(8):
        further = evolved(made(), range(number, number + 1), best, distance)
        assert distance([further], 0, 0) <= distance([best], 0, 0)
        best = further


def test_resumed_it_is_the_same_and_another_seed_is_another() -> None:
    one, two = Distance(), Distance()
    whole = evolved(made(), range(5), start(), one)
    half = evolved(made(), range(2), start(), two)
    assert evolved(made(), range(2, 5), half, two) == whole
    assert one.calls == two.calls
    other = Distance()
    evolved(made(seed=1), range(1), start(), other)
    assert other.calls[0] != one.calls[0]


def test_a_model_with_few_mixtures_is_searched_all_the_same() -> None:
    sizes = {n: SIZES[n] for n in ("h.0.a", "h.1.a")}
    budget, distance = made(levels=1), Distance()
    offers = budget.offers({n: LAYERS[n] for n in sizes}, sizes, 240)
    best = budget.better(dict.fromkeys(sizes, 0), 0, offers, sizes, distance)
    assert best == {"h.0.a": -1, "h.1.a": 1}
    assert len(distance.calls[0][0]) == 2


@pytest.mark.parametrize(
    "options",
    [
        {"survivors": (1,)},
        {"survivors": (1, 2)},
        {"survivors": (4, 2)},
        {"survivors": (), "tokens": ()},
        {"step": 0.0},
        {"held_out": 1.0},
        {"offspring": 0},
        {"tokens": [2048, 0, 65536]},
    ],
)
def test_options_that_compare_nothing(options: dict[str, object]) -> None:
    with pytest.raises(SteppeError, match="evopress"):
        made(**options)


def test_a_training_loop_is_refused_and_the_way_out_works() -> None:
    with pytest.raises(SteppeError, match=r"evopress mixes layers.*--set 'budget={name: evopress"):
        methods.safe(sparsity=0.5, budget="evopress")
    form = methods.safe(sparsity=0.5).for_language()
    assert form.replace(budget={"name": "evopress", "sparsity": 0.5}).budget.name == "evopress"
    with pytest.raises(SteppeError, match="same sparsity"):
        methods.alps(structure="2:4", budget="evopress")
