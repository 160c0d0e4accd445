"""Swaps after any solver, then least squares on the support."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import steppe
from steppe import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import LayerSolver, Score, Structure
from steppe.core.selection import keep_largest
from steppe.coupling.mask_swaps import MaskSwaps

SOLVERS = ["hard_mask", "obs_update", "layer_admm"]


def posed(solver: str, form: str = "unstructured") -> LayerProblem:
    structure, x = Structure.make(form), torch.randn(400, 12) @ torch.randn(12, 40)
    x += 0.3 * torch.randn(x.shape) + torch.rand(40)

    def choose(saliency: Tensor, number: int) -> Tensor:
        kept = structure.select({"": saliency})
        return keep_largest({"": saliency}, number)[""] if kept is None else kept[""]

    gram = x.T @ x / len(x)
    return LayerProblem(
        "layer.weight",
        torch.randn(24, 40),
        {"gram": gram, "activation_square": gram.diagonal()[None]},
        480 if form != "unstructured" else 672,
        choose,
        Score.make("obs" if solver == "obs_update" else "magnitude"),
        structure.columns or 1,
    )


def error(problem: LayerProblem, weight: Tensor) -> float:
    change, gram = (weight - problem.weight).double(), problem.statistics["gram"].double()
    gram = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
    return float(((change @ gram) * change).sum())


@pytest.mark.parametrize("form", ["unstructured", "2:4"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_no_step_makes_it_worse_whatever_the_solver(solver: str, form: str) -> None:
    problem = posed(solver, form)
    plain = error(problem, LayerSolver.make(solver).solve(problem)[0])
    masks_only = error(problem, MaskSwaps(solver=solver, refine=0).solve(problem)[0])
    whole = error(problem, MaskSwaps(solver=solver).solve(problem)[0])
    assert whole <= masks_only * (1 + 1e-5)
    assert masks_only <= plain * 1.02  # the swaps look at the error without damping
    assert whole < plain
    if solver == "hard_mask":
        assert masks_only < 0.6 * plain


def test_no_swaps_and_no_fit_are_the_solver_itself() -> None:
    problem = posed("hard_mask")
    plain = LayerSolver.make("hard_mask").solve(problem)
    same = MaskSwaps(solver="hard_mask", swaps=0, refine=0).solve(problem)
    assert all(torch.equal(a, b) for a, b in zip(plain, same, strict=True))


def test_the_weights_are_least_squares_on_the_support() -> None:
    problem = posed("hard_mask")
    weight, mask = MaskSwaps(solver="hard_mask", refine=400, tolerance=0.0).solve(problem)
    gram = problem.statistics["gram"].double()
    gram = gram + 0.01 * gram.diagonal().mean() * torch.eye(len(gram))
    for w, w0, kept in zip(weight, problem.weight.double(), mask, strict=True):
        exact = torch.linalg.solve(gram[kept][:, kept], (gram @ w0)[kept])
        torch.testing.assert_close(w[kept].double(), exact, rtol=1e-3, atol=1e-4)


def test_what_is_asked_of_it_is_asked_of_its_solver() -> None:
    swaps = MaskSwaps(solver={"name": "obs_update", "damping": 0.1})
    assert swaps.solver.damping == 0.1
    assert (swaps.provides, swaps.ranks_by, swaps.needs) == (("obs_scale",), "obs", ("gram",))
    assert MaskSwaps(solver=swaps.solver.to_dict()) == swaps
    assert swaps.memory(24, 40) >= swaps.solver.memory(24, 40)
    wanda = steppe.methods.wanda(sparsity=0.5)
    assert wanda.replace(coupling="mask_swaps").calibration_needs == {"gram", "activation_square"}
    again = steppe.Method.from_yaml(wanda.replace(coupling=swaps, score="obs").to_yaml())
    assert again.coupling == swaps


@pytest.mark.parametrize("structure", ["block:2x2", "channel"])
def test_tied_rows_are_refused(structure: str) -> None:
    with pytest.raises(SteppeError, match="mask_swaps exchanges single weights"):
        steppe.methods.alps(sparsity=0.5, structure=structure).replace(
            coupling={"name": "mask_swaps", "solver": "layer_admm"}
        )


@pytest.mark.parametrize("options", [{"swaps": -1}, {"refine": -1}, {"damping": 0.0}])
def test_impossible_options(options: dict[str, float]) -> None:
    with pytest.raises(SteppeError, match="swaps 100, refine 30"):
        LayerSolver.make({"name": "mask_swaps"} | options)


def test_only_what_solves_a_layer_is_refined() -> None:
    with pytest.raises(SteppeError, match="mask_swaps refines a coupling that solves a layer"):
        MaskSwaps(solver="admm")
