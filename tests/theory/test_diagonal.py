"""A sparse truth from too few samples: what the theory says of the four arms."""

import math

import pytest
import torch

from steppe import SteppeError
from steppe.theory.diagonal import ALPHAS, ARMS, CURVES, Diagonal, best_strengths


@pytest.fixture(scope="module")
def result():
    return Diagonal(steps=12_000).run()


def last(result, arm, curve):
    return best_strengths(result)[arm, curve]["mean"][-1]


def test_everything_is_there(result):
    assert len(result["runs"]) == len(ARMS) * len(CURVES) * len(ALPHAS) * 5
    assert result["steps"][0] == 0
    assert result["steps"][-1] == 12_000
    assert all(len(run["distance"]) == len(result["steps"]) for run in result["runs"])


def test_all_begin_at_the_same_points(result):
    _, truth, start = Diagonal().problem()
    for run in result["runs"]:
        expected = float((start[run["init"]] - truth).norm())
        assert run["distance"][0] == pytest.approx(expected, abs=1e-5)


def test_a_decaying_strength_on_factors_beats_a_constant_l1(result):
    assert min(last(result, "pilot", c) for c in CURVES[1:]) < last(result, "l1_x", "constant")


def test_factors_that_begin_alike_stall(result):
    """No sign flips, so what begins on the wrong side of 0 never gets to its +-1."""
    _, truth, start = Diagonal().problem()
    wrong = ((start * truth) < 0).sum(dim=1)
    for run in result["runs"]:
        if run["arm"] == "spred" and None not in run["distance"]:
            assert run["flipped"] == 0
            assert run["distance"][-1] >= math.sqrt(float(wrong[run["init"]])) - 1e-4
    assert last(result, "spred", "constant") > 10 * last(result, "pilot", "constant")
    assert wrong.sum() > 0


def test_one_step_by_hand():
    problem = Diagonal(samples=3, size=4, support=1, inits=1, steps=1, every=1, rate=0.01)
    z, truth, start = problem.problem()
    x = start[0].clone().requires_grad_()
    ((z @ x - z @ truth).square().sum() + ALPHAS[2] * x.abs().sum()).backward()
    expected = float((start[0] - 0.01 * x.grad - truth).norm())
    run = next(
        r
        for r in problem.run()["runs"]
        if (r["arm"], r["curve"], r["alpha"]) == ("l1_x", "constant", ALPHAS[2])
    )
    assert run["distance"][1] == pytest.approx(expected, abs=1e-5)


def test_too_large_a_rate_is_no_result():
    result = Diagonal(rate=1.0, steps=400).run()
    assert any(None in run["distance"] for run in result["runs"])
    with pytest.raises(SteppeError, match="smaller rate"):
        best_strengths(result)


def test_the_same_seed_gives_the_same(result):
    problem = Diagonal(samples=8, size=12, support=2, inits=2, steps=30, every=10)
    assert problem.run() == problem.run()
    assert torch.equal(Diagonal(seed=3).problem()[0], Diagonal(seed=3).problem()[0])


@pytest.mark.parametrize("given", [{"support": 0}, {"samples": 100}, {"rate": 0.0}, {"steps": 0}])
def test_wrong_options(given):
    with pytest.raises(SteppeError):
        Diagonal(**given)
