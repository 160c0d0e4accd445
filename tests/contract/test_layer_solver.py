"""What every coupling fulfils that solves a layer at once."""

import pytest
import torch

from looped import looped
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import AnyCoupling, LayerSolver, Score, Structure
from steppe.core.selection import keep_largest

SOLVERS = [n for n in AnyCoupling.registry if issubclass(AnyCoupling.registry[n], LayerSolver)]
FORMS = ["unstructured", "2:4", "4:8", "1:4"]
ROWS, COLUMNS = 12, 40


def needs_inputs(name):
    """Whether the solver looks at the inputs; else it only masks."""
    return bool(LayerSolver.registry[name].needs)


def correlated(columns=COLUMNS, dead=()):
    mix = torch.randn(columns, columns) / columns**0.5
    inputs = torch.randn(4 * columns, columns) @ (mix + 0.3 * torch.eye(columns))
    inputs[:, list(dead)] = 0.0
    return inputs.T @ inputs / len(inputs)


def posed(name, weight, gram, prune=0.5, form="unstructured", notes=None):
    coupling, structure = LayerSolver.make(name), Structure.make(form)
    score = Score.make("obs" if "obs_scale" in coupling.provides else "magnitude")

    def choose(saliency, number):
        kept = structure.select({"": saliency})
        return keep_largest({"": saliency}, number)[""] if kept is None else kept[""]

    if structure.sparsity is not None:
        prune = structure.sparsity
    number = round(prune * weight.numel()) if isinstance(prune, float) else prune
    statistics = {"gram": gram.clone(), "activation_square": gram.diagonal()[None].clone()}
    note = (lambda text: None) if notes is None else notes.append
    return coupling, LayerProblem(
        "layer.weight", weight, statistics, number, choose, score, structure.columns, note
    )


def solved(*given, **options):
    coupling, problem = posed(*given, **options)
    weight, mask = coupling.solve(problem)
    assert weight.shape == mask.shape == problem.weight.shape
    assert weight.dtype == problem.weight.dtype
    assert mask.dtype == torch.bool
    assert weight.isfinite().all()
    assert int((~mask).sum()) == problem.prune
    gone = weight[~mask]
    assert torch.equal(gone, torch.zeros_like(gone))
    assert not torch.signbit(gone).any()
    return weight, mask


@looped(prune=[1, 0.3, 0.7, 479])
@looped(levels=[None, 1])
@looped(dead=[(), (3, 17, 18), tuple(range(30))])
@pytest.mark.parametrize("name", SOLVERS)
def test_count_is_exact(name, dead, levels, prune):
    weight = torch.randn(ROWS, COLUMNS)
    if levels:
        weight = (weight * levels).round() / levels
    _, mask = solved(name, weight, correlated(dead=dead), prune)
    if needs_inputs(name) and not levels:
        seen = [c for c in range(COLUMNS) if c not in dead]
        lost_for_nothing = min(ROWS * len(dead), ROWS * COLUMNS - int(mask.sum()))
        assert int((~mask[:, seen]).sum()) == ROWS * COLUMNS - int(mask.sum()) - lost_for_nothing


@pytest.mark.parametrize("name", SOLVERS)
def test_all_may_go_and_all_inputs_may_be_dead(name):
    weight = torch.randn(ROWS, COLUMNS)
    assert not solved(name, weight, correlated(), 1.0)[0].any()
    solved(name, weight, torch.zeros(COLUMNS, COLUMNS))


@looped(form=FORMS)
@pytest.mark.parametrize("name", SOLVERS)
def test_structure_holds(name, form):
    structure = Structure.make(form)
    _, mask = solved(name, torch.randn(ROWS, COLUMNS), correlated(dead=(5,)), form=form)
    if form != "unstructured":
        kept = mask.reshape(-1, structure.m).sum(1)
        assert torch.equal(kept, torch.full_like(kept, structure.n))


@pytest.mark.parametrize("name", SOLVERS)
def test_no_pruning_no_change(name):
    weight = torch.randn(ROWS, COLUMNS)
    new, mask = solved(name, weight, correlated(dead=(2,)), 0)
    assert torch.equal(new, weight)
    assert new.data_ptr() != weight.data_ptr()
    assert mask.all()


@looped(form=FORMS)
@pytest.mark.parametrize("name", SOLVERS)
def test_uncorrelated_inputs_leave_magnitude(name, form):
    # rows alike in size, so that a share per block of columns is the share of the whole
    weight = torch.randn(ROWS, COLUMNS)
    new, mask = solved(name, weight, 3.0 * torch.eye(COLUMNS), form=form)
    assert torch.equal(mask, solved("hard_mask", weight, torch.eye(COLUMNS), form=form)[1])
    torch.testing.assert_close(new, weight * mask, rtol=1e-6, atol=0)


@looped(form=["unstructured", "2:4"])
@pytest.mark.parametrize("name", SOLVERS)
def test_the_weight_is_not_changed_and_twice_is_the_same(name, form):
    weight, gram = torch.randn(ROWS, COLUMNS), correlated()
    before, state = weight.clone(), torch.get_rng_state()
    first = solved(name, weight, gram, form=form)
    second = solved(name, weight, gram, form=form)
    assert torch.equal(weight, before)
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    assert torch.equal(state, torch.get_rng_state()), "torch's generator was touched"


@looped(form=["unstructured", "2:4"])
@pytest.mark.parametrize("name", [n for n in SOLVERS if needs_inputs(n)])
def test_better_than_magnitude_alone(name, form):
    weight, gram = torch.randn(64, COLUMNS), correlated()

    def error(new):
        change = new - weight
        return float(((change @ gram) * change).sum())

    plain = solved("hard_mask", weight, gram, form=form)[0]
    assert error(solved(name, weight, gram, form=form)[0]) < error(plain)
