"""What every coupling fulfils that solves a layer at once."""

import math

import pytest
import torch

from looped import looped
from steppe import Method, SteppeError
from steppe.core.calibration_statistics import CALIBRATION
from steppe.core.layer import Layer
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import AnyCoupling, LayerSolver, Structure
from steppe.engine.blockwise.solve import chooser

SOLVERS = [n for n in AnyCoupling.registry if issubclass(AnyCoupling.registry[n], LayerSolver)]
FORMS = ["unstructured", "2:4", "4:8", "1:4", "neurons", "heads"]
ROWS, COLUMNS = 12, 40
UNITS = {"neurons": 1, "heads": 4}
"""Form -> columns of a unit, where units are whole inputs."""


def needs_inputs(name):
    """Whether the solver looks at the inputs; else it only masks."""
    return bool(LayerSolver.registry[name].needs)


def method_of(name, form):
    sparsity = Structure.make(form).sparsity
    score = LayerSolver.make(name).ranks_by or "magnitude"
    return Method(
        structure=form,
        budget={"name": "uniform", "sparsity": 0.5 if sparsity is None else sparsity},
        score=score,
        coupling=name,
        objective="layer_reconstruction",
    )


def fits(name, form):
    try:
        return bool(method_of(name, form))
    except SteppeError:
        return False


PAIRS = [(name, form) for name in SOLVERS for form in FORMS if fits(name, form)]
every_form = pytest.mark.parametrize(("name", "form"), PAIRS)
FREE = [p for p in PAIRS if Structure.make(p[1]).sparsity is None]
"""Pairs of a solver and a form that may have any sparsity."""


def correlated(columns=COLUMNS, dead=()):
    """Inputs ``[tokens, columns]`` with means that are not zero."""
    mix = torch.randn(columns, columns) / columns**0.5
    inputs = (torch.randn(4 * columns, columns) + 0.3) @ (mix + 0.3 * torch.eye(columns))
    inputs[:, list(dead)] = 0.0
    return inputs


def posed(name, weight, inputs, prune=0.5, form="unstructured"):
    method = method_of(name, form)
    structure = method.structure
    layer = Layer("layer.weight", tuple(weight.shape), reads=form, unit=UNITS.get(form, 1))
    if structure.sparsity is not None:
        prune = structure.sparsity
    units = math.prod(structure.units(layer))
    seen = {need: CALIBRATION[need](weight.shape[1], inputs.device) for need in CALIBRATION}
    for statistic in seen.values():
        statistic.add(inputs)
    problem = LayerProblem(
        name=layer.name,
        weight=weight,
        statistics={need: statistic.mean() for need, statistic in seen.items()},
        prune=round(prune * units) if prune >= 0 else units - 1,
        choose=chooser(method, layer),
        score=method.score,
        multiple=structure.columns or 1,
        unit=layer.unit,
    )
    return method.coupling, problem, structure.groups(weight, layer).shape[-1]


def solved(*given, **options):
    coupling, problem, members = posed(*given, **options)
    weight, mask = coupling.solve(problem)
    assert weight.shape == mask.shape == problem.weight.shape
    assert weight.dtype == problem.weight.dtype
    assert mask.dtype == torch.bool
    assert weight.isfinite().all()
    assert int((~mask).sum()) == problem.prune * members
    gone = weight[~mask]
    assert torch.equal(gone, torch.zeros_like(gone))
    assert not torch.signbit(gone).any()
    return weight, mask


@looped(prune=[1 / (ROWS * COLUMNS), 0.3, 0.7, -1])  # one, some, all but one
@looped(levels=[None, 1])
@looped(dead=[(), (16, 17, 18, 19), tuple(range(32))])
@pytest.mark.parametrize(("name", "form"), FREE)
def test_count_is_exact(name, form, dead, levels, prune):
    weight = torch.randn(ROWS, COLUMNS)
    if levels:
        weight = (weight * levels).round() / levels
    _, mask = solved(name, weight, correlated(dead=dead), prune, form)
    if needs_inputs(name) and not levels:
        seen = [c for c in range(COLUMNS) if c not in dead]
        lost_for_nothing = min(ROWS * len(dead), ROWS * COLUMNS - int(mask.sum()))
        assert int((~mask[:, seen]).sum()) == ROWS * COLUMNS - int(mask.sum()) - lost_for_nothing


@pytest.mark.parametrize(("name", "form"), FREE)
def test_all_may_go_and_all_inputs_may_be_dead(name, form):
    weight = torch.randn(ROWS, COLUMNS)
    assert not solved(name, weight, correlated(), 1.0, form)[0].any()
    solved(name, weight, torch.zeros(COLUMNS, COLUMNS), form=form)


@every_form
def test_structure_holds(name, form):
    structure = Structure.make(form)
    _, mask = solved(name, torch.randn(ROWS, COLUMNS), correlated(dead=(5,)), form=form)
    if form in UNITS:
        units = mask.view(ROWS, -1, UNITS[form])
        assert torch.equal(units.any((0, 2)), units.all(2).all(0)), "half of a unit is gone"
    elif form != "unstructured":
        kept = mask.reshape(-1, structure.m).sum(1)
        assert torch.equal(kept, torch.full_like(kept, structure.n))


@pytest.mark.parametrize(("name", "form"), FREE)
def test_no_pruning_no_change(name, form):
    weight = torch.randn(ROWS, COLUMNS)
    new, mask = solved(name, weight, correlated(dead=(2,)), 0, form)
    assert torch.equal(new, weight)
    assert new.data_ptr() != weight.data_ptr()
    assert mask.all()


@every_form
def test_uncorrelated_inputs_leave_magnitude(name, form):
    # rows alike in size, so that a share per block of columns is the share of the whole
    weight = torch.randn(ROWS, COLUMNS)
    new, mask = solved(name, weight, 3.0 * torch.eye(COLUMNS), form=form)
    assert torch.equal(mask, solved("hard_mask", weight, torch.eye(COLUMNS), form=form)[1])
    torch.testing.assert_close(new, weight * mask, rtol=1e-6, atol=0)


@every_form
def test_the_weight_is_not_changed_and_twice_is_the_same(name, form):
    weight, inputs = torch.randn(ROWS, COLUMNS), correlated()
    before, state = weight.clone(), torch.get_rng_state()
    first = solved(name, weight, inputs, form=form)
    second = solved(name, weight, inputs, form=form)
    assert torch.equal(weight, before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state()), "torch's generator was touched"


@pytest.mark.parametrize(("name", "form"), [p for p in PAIRS if needs_inputs(p[0])])
def test_better_than_magnitude_alone(name, form):
    weight, inputs = torch.randn(64, COLUMNS), correlated()

    def error(name):
        coupling, problem, _ = posed(name, weight, inputs, form=form)
        change = inputs @ (coupling.solve(problem)[0] - weight).T
        return float((change if problem.shift is None else change + problem.shift).square().sum())

    assert error(name) < error("hard_mask")
