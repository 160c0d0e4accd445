"""Whole inputs chosen and repaired by least squares, beside brute force."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steppe import SteppeError, methods
from steppe.core.layer import Layer
from steppe.core.layer_problem import LayerProblem
from steppe.coupling.regression import Regression
from steppe.engine.blockwise.solve import chooser

DAMPING = 0.01


def posed(
    columns: int = 12, unit: int = 1, rows: int = 5, prune: int = 4, gone: Tensor | None = None
) -> LayerProblem:
    generator = torch.Generator().manual_seed(columns + unit)
    mix = torch.randn(columns, columns, generator=generator)
    inputs = torch.randn(200, columns, generator=generator) @ mix
    gram = inputs.T @ inputs / len(inputs)
    weight = torch.randn(rows, columns, generator=generator)
    if gone is not None:
        weight = weight.masked_fill(gone, 0.0)
    layer = Layer("layer.weight", (rows, columns), reads="heads", unit=unit)
    method = methods.slim(sparsity=0.5, structure="heads", score="magnitude")
    return LayerProblem(
        name=layer.name,
        weight=weight,
        statistics={"gram": gram},
        prune=prune,
        choose=chooser(method, layer),
        score=method.score,
        unit=unit,
        gone=gone,
    )


def hessian(problem: LayerProblem) -> Tensor:
    gram = problem.statistics["gram"].double()
    return gram + DAMPING * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def ridge(problem: LayerProblem, keep: Tensor) -> tuple[Tensor, float]:
    """The best weight whose columns outside of ``keep`` are zero, and its error; in float64."""
    h, weight = hessian(problem), problem.weight.double()
    new = torch.zeros_like(weight)
    new[:, keep] = weight @ h[:, keep] @ torch.linalg.inv(h[keep][:, keep])
    change = new - weight
    return new, float(((change @ h) * change).sum())


def without(problem: LayerProblem, units: list[int]) -> Tensor:
    keep = torch.ones(problem.weight.shape[1], dtype=torch.bool)
    for u in units:
        keep[u * problem.unit : (u + 1) * problem.unit] = False
    return keep


@pytest.mark.parametrize("greedy", [True, False])
@pytest.mark.parametrize("unit", [1, 2, 3])
def test_the_repair_is_ridge_regression(unit: int, greedy: bool) -> None:
    problem = posed(unit=unit, prune=2)
    new, mask = Regression(greedy=greedy).solve(problem)
    assert torch.equal(mask, mask[:1].expand_as(mask))
    assert int((~mask[0]).sum()) == 2 * unit
    expected, _ = ridge(problem, mask[0])
    torch.testing.assert_close(new.double(), expected, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("unit", [1, 2, 4])
def test_the_first_unit_is_the_one_that_costs_least_of_all(unit: int) -> None:
    problem = posed(unit=unit, prune=1)
    _, mask = Regression().solve(problem)
    errors = [ridge(problem, without(problem, [u]))[1] for u in range(12 // unit)]
    best = min(range(len(errors)), key=errors.__getitem__)
    assert torch.equal(mask[0], without(problem, [best]))


@pytest.mark.parametrize("unit", [1, 2, 3])
def test_one_after_the_other_each_the_best_of_those_left(unit: int) -> None:
    units = 12 // unit
    problem = posed(unit=unit, prune=units - 1)
    for prune in range(1, units):
        problem.prune = prune
        gone: list[int] = []
        for _ in range(prune):
            costs = {
                u: ridge(problem, without(problem, [*gone, u]))[1]
                for u in range(units)
                if u not in gone
            }
            gone.append(min(costs, key=costs.__getitem__))
        assert torch.equal(Regression().solve(problem)[1][0], without(problem, gone)), prune


@pytest.mark.parametrize("rounds", [1, 2, 3, 5])
@pytest.mark.parametrize("prune", [1, 4, 7])
def test_fewer_rounds_than_units(rounds: int, prune: int) -> None:
    problem = posed(prune=prune)
    new, mask = Regression(rounds=rounds).solve(problem)
    assert int((~mask[0]).sum()) == prune
    torch.testing.assert_close(new.double(), ridge(problem, mask[0])[0], rtol=2e-3, atol=2e-3)
    if rounds == 1:  # all at once, by what each costs alone
        costs = [ridge(problem, without(problem, [u]))[1] for u in range(12)]
        cheapest = sorted(range(12), key=costs.__getitem__)[:prune]
        assert torch.equal(mask[0], without(problem, cheapest))


def test_the_choice_is_better_than_by_the_score() -> None:
    def error(greedy: bool) -> float:
        problem = posed(columns=24, prune=12)
        mask = Regression(greedy=greedy).solve(problem)[1]
        return ridge(problem, mask[0])[1]

    assert error(True) < error(False)


@pytest.mark.parametrize("greedy", [True, False])
def test_zeros_stay_and_the_rest_is_the_minimum_on_what_is_left(greedy: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    gone = torch.rand(5, 12, generator=generator) < 0.3
    gone[:, 6:8] = True  # a unit that was gone already is the first to go
    problem = posed(unit=2, prune=2, gone=gone)
    new, mask = Regression(greedy=greedy).solve(problem)
    assert not bool(mask[:, 6:8].any())
    assert not bool((mask & gone).any())
    assert not bool(new[~mask].any())
    units = mask.view(5, 6, 2).any((0, 2))
    assert int((~units).sum()) == 2
    h, weight = hessian(problem), problem.weight.double()
    for row in range(5):
        keep = mask[row]
        expected = weight[row] @ h[:, keep] @ torch.linalg.inv(h[keep][:, keep])
        torch.testing.assert_close(new[row][keep].double(), expected, rtol=2e-2, atol=2e-2)


def test_inputs_that_were_always_zero_go_first() -> None:
    problem = posed(prune=2)
    gram = problem.statistics["gram"].clone()
    gram[[3, 8]], gram[:, [3, 8]] = 0.0, 0.0
    problem.statistics = {"gram": gram}
    problem.weight[:, [3, 8]] *= 100
    _, mask = Regression().solve(problem)
    assert torch.equal(mask[0], without(problem, [3, 8]))


def test_its_options_are_checked() -> None:
    for options in ({"rounds": 0}, {"damping": 0.0}, {"damping": float("inf")}):
        with pytest.raises(SteppeError, match="a round at least, and a damping above 0"):
            Regression(**options)  # type: ignore[arg-type]
    with pytest.raises(SteppeError, match=r"regression fits the columns that stay.*unstructured"):
        methods.wanda(sparsity=0.5).replace(coupling="regression")
