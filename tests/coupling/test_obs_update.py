"""The sweep beside optimal brain surgeon done by hand, row by row, in float64."""

import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.core.layer_problem import LayerProblem
from steppe.core.protocols import Score, Structure
from steppe.core.selection import keep_largest
from steppe.coupling.obs_update import ObsUpdate


def layer(rows, columns, seed=0):
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(columns, columns, generator=generator) / columns**0.5
    mix += 0.3 * torch.eye(columns)
    inputs = torch.randn(4 * columns, columns, generator=generator) @ mix
    return torch.randn(rows, columns, generator=generator), inputs.T @ inputs / len(inputs)


def posed(weight, gram, prune, form="unstructured", notes=None):
    structure = Structure.make(form)

    def choose(saliency, number):
        kept = structure.select({"": saliency})
        return keep_largest({"": saliency}, number)[""] if kept is None else kept[""]

    return LayerProblem(
        name="layer.weight",
        weight=weight,
        statistics={"gram": gram},
        prune=prune,
        choose=choose,
        score=Score.make("obs"),
        multiple=structure.columns,
        note=(lambda text: None) if notes is None else notes.append,
    )


def hessian_of(gram, damping=0.01):
    gram = gram.double()
    return gram + damping * gram.diagonal().mean() * torch.eye(len(gram), dtype=torch.float64)


def by_hand(weight, gram, fractions, size, group=1, kept=1):
    """Columns from left to right; the inverse is that of the Hessian of the columns still left.

    Removing w_j changes the columns right of it by -w_j [H_F^-1]_j: / [H_F^-1]_jj, and costs
    w_j^2 / [H_F^-1]_jj, where F are the columns j and right of it.
    """
    hessian, w = hessian_of(gram), weight.double().clone()
    rows, columns = w.shape
    keep = torch.ones(rows, columns, dtype=torch.bool)
    cost = [torch.linalg.inv(hessian[j:, j:])[0, 0].item() for j in range(columns)]
    cost = torch.tensor(cost, dtype=torch.float64)
    for j in range(columns):
        if group == 1 and j % size == 0:
            part = slice(j, min(j + size, columns))
            scores = w[:, part] ** 2 / cost[part]
            number = fractions[j // size]
            order = scores.flatten().argsort()[:number]
            chosen = torch.ones(scores.numel(), dtype=torch.bool)
            chosen[order] = False
            keep[:, part] = chosen.view(scores.shape)
        if group > 1 and j % group == 0:
            part = slice(j, j + group)
            scores = w[:, part] ** 2 / cost[part]
            keep[:, part] = False
            keep[:, part] = keep[:, part].scatter(1, scores.topk(kept, dim=1).indices, True)
        inverse = torch.linalg.inv(hessian[j:, j:])
        for row in range(rows):
            if not keep[row, j]:
                w[row, j:] -= w[row, j].clone() / inverse[0, 0] * inverse[0]
    return w * keep, keep


@pytest.mark.parametrize(("rows", "columns", "block"), [(6, 24, 8), (5, 40, 16), (3, 50, 128)])
def test_unstructured_is_obs_by_hand(rows, columns, block):
    weight, gram = layer(rows, columns)
    blocks = [min(block, columns - i) for i in range(0, columns, block)]
    prune = sum(round(0.5 * rows * n) for n in blocks)
    numbers = [prune * n // columns for n in blocks]
    for i in range(prune - sum(numbers)):
        numbers[i] += 1
    new, mask = ObsUpdate(block=block).solve(posed(weight, gram, prune))
    expected, keep = by_hand(weight, gram, numbers, block)
    assert torch.equal(mask, keep)
    torch.testing.assert_close(new.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["2:4", "4:8", "1:4", "3:20"])
@pytest.mark.parametrize("block", [8, 50, 128])
def test_nm_is_obs_by_hand(form, block):
    structure = Structure.make(form)
    weight, gram = layer(7, 80)
    problem = posed(weight, gram, round(structure.sparsity * weight.numel()), form)
    new, mask = ObsUpdate(block=block).solve(problem)
    expected, keep = by_hand(weight, gram, None, None, structure.m, structure.n)
    assert torch.equal(mask, keep)
    torch.testing.assert_close(new.double(), expected, rtol=1e-4, atol=1e-5)


def test_one_weight_is_removed_as_obs_removes_it():
    """The last column has no one right of it, the first has all: equation 3 of the paper."""
    weight, gram = layer(1, 9)
    weight[0, 0] = 1e-3
    new, mask = ObsUpdate().solve(posed(weight, gram, 1))
    assert mask[0].tolist() == [False] + [True] * 8
    inverse = torch.linalg.inv(hessian_of(gram))
    expected = weight.double() - weight[0, 0].double() / inverse[0, 0] * inverse[0]
    torch.testing.assert_close(new.double()[0, 1:], expected[0, 1:], rtol=1e-5, atol=1e-7)


def test_dead_inputs_lose_their_weights_first():
    weight, gram = layer(4, 32)
    gram[5], gram[:, 5] = 0.0, 0.0
    new, mask = ObsUpdate(block=8).solve(posed(weight, gram, 10))
    assert not mask[:, 5].any()
    assert not new[:, 5].any()
    alive = [c for c in range(32) if c != 5]
    assert int((~mask[:, alive]).sum()) == 6


def test_more_damping_is_told():
    weight, gram = layer(4, 16)
    bent = gram - 0.05 * gram.diagonal().mean() * torch.eye(16)
    bent -= 1.001 * torch.linalg.eigvalsh(bent)[0].clamp_min(0.0) * torch.eye(16)
    notes = []
    new, _ = ObsUpdate().solve(posed(weight, bent, 32, notes=notes))
    assert new.isfinite().all()
    assert 1 <= len(notes) <= 3
    assert all("layer.weight" in note and "damping" in note for note in notes)


@pytest.mark.parametrize("broken", ["indefinite", "nan", "infinite"])
def test_a_hopeless_gram_is_named(broken):
    weight, gram = layer(4, 16)
    if broken == "indefinite":
        gram = gram - 100 * gram.diagonal().mean() * torch.ones(16, 16)
        gram.diagonal().abs_()
    else:
        gram[3, 7] = gram[7, 3] = float(broken[:3])
    notes = []
    with pytest.raises(SteppeError, match=r"layer\.weight"):
        ObsUpdate().solve(posed(weight, gram, 32, notes=notes))
    assert len(notes) == 4
    assert "float64" in notes[-1]


def test_shapes_that_tie_rows_are_refused():
    sparsegpt = steppe.methods.make("sparsegpt", sparsity=0.5)
    assert steppe.Method.from_yaml(sparsegpt.to_yaml()) == sparsegpt
    for structure in ("block:2x2", "channel"):
        with pytest.raises(SteppeError, match="obs_update"):
            steppe.methods.make("sparsegpt", sparsity=0.5, structure=structure)


@pytest.mark.parametrize("options", [{"damping": 0.0}, {"block": 0}, {"damping": float("inf")}])
def test_options_are_checked(options):
    with pytest.raises(SteppeError, match="obs_update"):
        ObsUpdate(**options)
