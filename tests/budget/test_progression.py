"""One slope over depth."""

from __future__ import annotations

import pytest

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.protocols import Budget

# more than ten blocks, so that an order by letters is another
LAYERS = {
    f"h.{i}.{name}": Layer(f"h.{i}.{name}", shape, block=f"h.{i}")
    for i in range(12)
    for name, shape in (("a", (40, 50)), ("b", (60, 50)))
}
SIZES = {n: x.numel for n, x in LAYERS.items()}
TOTAL = sum(SIZES.values())


def sparsities(sparsity: float, prune: float | None = None, **options: float) -> list[float]:
    budget = Budget.make({"name": "progression", "sparsity": sparsity} | options)
    wanted = round((sparsity if prune is None else prune) * TOTAL)
    counts = budget.counts(LAYERS, SIZES, wanted, {})
    assert sum(counts.values()) == wanted
    for i in range(12):
        of_both = [counts[f"h.{i}.{name}"] / SIZES[f"h.{i}.{name}"] for name in "ab"]
        assert of_both[0] == pytest.approx(of_both[1], abs=1e-3)
    return [counts[f"h.{i}.a"] / SIZES[f"h.{i}.a"] for i in range(12)]


@pytest.mark.parametrize("slope", [0.22, -0.22, 0.0])
def test_an_arithmetic_progression_over_depth(slope: float) -> None:
    expected = [0.7 + slope * (i / 11 - 0.5) for i in range(12)]
    assert sparsities(0.7, slope=slope) == pytest.approx(expected, abs=1e-3)


def test_on_the_way_to_the_sparsity_the_profile_is_the_same() -> None:
    half, whole = sparsities(0.6, 0.3, slope=0.4), sparsities(0.6, slope=0.4)
    assert half == pytest.approx([x / 2 for x in whole], abs=2e-3)


def test_layers_of_one_block_share_its_sparsity() -> None:
    only = {n: x for n, x in LAYERS.items() if x.block == "h.3"}
    budget = Budget.make({"name": "progression", "sparsity": 0.5, "slope": 0.9})
    counts = budget.counts(only, {n: SIZES[n] for n in only}, 2500, {})
    assert counts == {"h.3.a": 1000, "h.3.b": 1500}


@pytest.mark.parametrize(("sparsity", "slope", "most"), [(0.9, 0.3, "0.2"), (0.1, -0.3, "0.2")])
def test_a_slope_too_steep_is_refused_and_the_way_out_works(
    sparsity: float, slope: float, most: str
) -> None:
    with pytest.raises(SteppeError, match=f"a slope of at most {most}$"):
        Budget.make({"name": "progression", "sparsity": sparsity, "slope": slope})
    Budget.make({"name": "progression", "sparsity": sparsity, "slope": float(most)})


@pytest.mark.parametrize(("sparsity", "slope"), [(0.6, 0.1), (0.98, 0.04), (0.01, 0.02)])
def test_the_usual_slope_fits_every_sparsity(sparsity: float, slope: float) -> None:
    expected = [sparsity + slope * (i / 11 - 0.5) for i in range(12)]
    assert sparsities(sparsity) == pytest.approx(expected, abs=1e-3)


def test_with_a_shape_that_fixes_the_sparsity_it_is_refused() -> None:
    with pytest.raises(SteppeError, match="same sparsity"):
        methods.wanda(structure="2:4", budget="progression")
