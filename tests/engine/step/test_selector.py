"""Score, structure and budget together: exact, idempotent, optimal."""

import itertools

import pytest
import torch

from looped import looped
from steppe import Method, SteppeError
from steppe.core.layer import Layer
from steppe.core.mask import apply_masks
from steppe.core.protocols import Budget, LevelBudget, Structure, UnitBudget
from steppe.core.statistic import STATISTICS
from steppe.engine.step.selector import Selector

FORMS = {"nm": ["2:4"], "block": ["block:2x2"]}
STRUCTURES = [
    form
    for name in Structure.registry
    if Structure.registry[name].removes is None  # the others are of language models
    for form in FORMS.get(name, [name])
]
COMBINATIONS = [
    pytest.param(s, b, id=f"{s}-{b}")
    for s in STRUCTURES
    for b in Budget.registry
    if issubclass(Budget.registry[b], UnitBudget)
    and not issubclass(Budget.registry[b], LevelBudget)  # for language models
    and not (b == "alpha_pruning" and s not in {"unstructured", "2:4"})
    and not (s == "channel" and b in {"per_row", "row_mass", "owl"})
    and not (s == "2:4" and Budget.registry[b].uneven)
]
LAYERS = [
    Layer("b", (8, 4, 3)),
    Layer("a", (6, 12)),
    Layer("c", (4, 10), transposed=True),
    Layer("d", (2, 8, 1, 2)),
]
each = pytest.mark.parametrize(("structure", "budget"), COMBINATIONS)


def selector(structure, budget, sparsity, layers=LAYERS, score="magnitude"):
    if structure == "2:4":
        sparsity = 0.5
    budget = {"name": budget, "sparsity": sparsity}
    return Selector(Method(structure=structure, budget=budget, score=score), layers)


def drawn(dtype=torch.float32, levels=None, layers=LAYERS):
    weights = {}
    for layer in layers:
        values = torch.randn(layer.shape)
        weights[layer.name] = ((values * levels).round() / levels if levels else values).to(dtype)
    return weights


def zeroed_units(select, masks):
    structure, count = select.method.structure, 0
    for name, layer in select.layers.items():
        groups = structure.groups(masks[name], layer)
        assert torch.equal(groups.any(-1), groups.all(-1)), "a unit was cut in two"
        count += int((~groups.any(-1)).sum())
    return count


@each
@looped(levels=[None, 2, 1])
@looped(dtype=[torch.float32, torch.bfloat16, torch.float16])
def test_exactly_so_many_units(structure, budget, levels, dtype):
    weights = drawn(dtype, levels)
    for sparsity in (0.0, 0.1, 0.37, 0.5, 0.9, 0.97):
        select = selector(structure, budget, sparsity)
        sparsity = select.method.sparsity
        masks = select(weights, sparsity)
        assert zeroed_units(select, masks) == round(sparsity * select.num_units)


@pytest.mark.parametrize(
    ("structure", "budget"),
    # OWL looks at the weights' outliers, of which a projected layer has others
    [c for c in COMBINATIONS if Budget.registry[c.values[1]].profiled_by is None],
)
@looped(levels=[None, 2])
def test_projecting_twice_is_projecting_once(structure, budget, levels):
    weights = drawn(levels=levels)
    select = selector(structure, budget, 0.6)
    apply_masks(weights, select(weights, select.method.sparsity))
    once = {n: w.clone() for n, w in weights.items()}
    apply_masks(weights, select(weights, select.method.sparsity))
    assert all(torch.equal(weights[n], once[n]) for n in weights)


@each
@looped(levels=[None, 2])
def test_order_of_layers_and_weights_does_not_matter(structure, budget, levels):
    weights = drawn(levels=levels)
    expected = selector(structure, budget, 0.6)(weights, 0.5)
    for order in itertools.islice(itertools.permutations(LAYERS), 0, None, 5):
        select = selector(structure, budget, 0.6, list(order))
        masks = select({x.name: weights[x.name] for x in reversed(order)}, 0.5)
        assert all(torch.equal(masks[n], expected[n]) for n in weights)


@each
@looped(dtype=[torch.float32, torch.float64, torch.float16])
def test_masks_are_nested_at_every_count(structure, budget, dtype):
    """Also when weights that are alive happen to be zero, and whatever a budget rounds to."""
    weights = drawn(dtype, levels=2)
    select = selector(structure, budget, 0.9)
    end = round(select.method.sparsity * select.num_units)
    masks = None
    for prune in range(end + 1):
        before, sparsity = masks, prune / select.num_units
        masks = select(weights, sparsity, within=before)
        assert zeroed_units(select, masks) == prune
        if before is not None:
            assert all(not (masks[n] & ~before[n]).any() for n in masks), prune
        apply_masks(weights, masks)


def closest(values, importance, groups, prune, per_group=None):
    """The smallest sum of P (z - v)^2 over all ways to zero ``prune`` of the groups."""
    cost = [float((importance[g] * values[g] ** 2).sum()) for g in groups]
    indices = range(len(groups))
    if per_group is None:
        choices = itertools.combinations(indices, prune)
    else:  # so many of each consecutive ``size`` groups
        size, lost = per_group
        inside = [
            list(itertools.combinations(range(i, i + size), lost))
            for i in range(0, len(groups), size)
        ]
        choices = (tuple(itertools.chain(*c)) for c in itertools.product(*inside))
    return min(sum(cost[i] for i in choice) for choice in choices)


SMALL = {
    "unstructured": [Layer("a", (2, 2)), Layer("b", (1, 5)), Layer("c", (3, 1))],
    "block:1x2": [Layer("a", (3, 4)), Layer("b", (2, 6), transposed=False)],
    "block:2x1": [Layer("a", (4, 3)), Layer("b", (2, 2, 2))],
    "channel": [Layer("a", (5, 3)), Layer("b", (2, 4), transposed=True), Layer("c", (3, 1, 2))],
    "2:4": [Layer("a", (1, 8)), Layer("b", (4, 1), transposed=True)],
}


@pytest.mark.parametrize("score", ["magnitude", "fisher", "wanda"])
@pytest.mark.parametrize("form", list(SMALL))
def test_no_sparse_point_is_closer(form, score):
    """Brute force: z = P(v) minimises (z - v)' diag(P) (z - v); P = 1 is plain SAFE."""
    layers = SMALL[form]
    for seed in range(4):
        torch.manual_seed(seed)
        select = selector(form, "pooled", 0.6, layers, score)
        v = drawn(torch.float64, layers=layers)
        p = {
            n: torch.rand_like(w) if score != "magnitude" else torch.ones_like(w)
            for n, w in v.items()
        }
        for need in select.method.score.needs:
            select.statistics[need] = STATISTICS[need](values=p)
        groups, values, importance, offset = [], [], [], 0
        for layer in sorted(layers, key=lambda x: x.name):
            index = torch.arange(offset, offset + layer.numel).reshape(layer.shape)
            # which weights form a unit: tested by itself in contract/test_structure.py
            groups += list(select.method.structure.groups(index, layer).flatten(0, 1))
            values.append(v[layer.name].flatten())
            importance.append(p[layer.name].flatten())
            offset += layer.numel
        sparsity = select.method.sparsity
        prune = round(sparsity * len(groups))
        best = closest(
            torch.cat(values),
            torch.cat(importance),
            groups,
            prune,
            (4, 2) if form == "2:4" else None,
        )
        masks = select(v, sparsity)
        got = sum(float((p[n] * v[n] ** 2)[~masks[n]].sum()) for n in v)
        assert got == pytest.approx(best, rel=1e-12)


def test_constant_importance_is_no_importance():
    weights = drawn()
    plain = selector("unstructured", "pooled", 0.6)(weights, 0.6)
    for score in ("fisher", "wanda"):
        select = selector("unstructured", "pooled", 0.6, score=score)
        constant = {n: torch.full_like(w, 0.25) for n, w in weights.items()}
        select.statistics = {n: STATISTICS[n](values=constant) for n in select.method.score.needs}
        masks = select(weights, 0.6)
        assert all(torch.equal(masks[n], plain[n]) for n in weights)


def test_unimportant_inputs_go_first():
    layer = Layer("a", (6, 12))
    select = selector("unstructured", "pooled", 0.25, [layer], "wanda")
    norms = torch.ones(1, 12)
    norms[0, [2, 5, 7]] = 0.0
    select.statistics = {"activation_square": STATISTICS["activation_square"](values={"a": norms})}
    mask = select({"a": torch.randn(6, 12)}, 0.25)["a"]
    assert not mask[:, [2, 5, 7]].any()
    assert mask.sum() == 54


def test_a_layer_without_statistics_is_named():
    select = selector("unstructured", "pooled", 0.5, score="fisher")
    known = {"b": torch.ones(8, 4, 3)}
    select.statistics = {"squared_gradient": STATISTICS["squared_gradient"](values=known)}
    with pytest.raises(SteppeError, match="none for a"):
        select(drawn(), 0.5)


def test_not_a_number_is_named():
    weights = drawn()
    weights["a"][0, 0] = float("nan")
    with pytest.raises(SteppeError, match="NaN in a"):
        selector("unstructured", "pooled", 0.5)(weights, 0.5)


def test_on_the_way_to_nm_only_losers_go():
    layer = Layer("a", (4, 16))
    select = selector("2:4", "pooled", 0.5, [layer])
    weights = drawn(layers=[layer])
    final = select(weights, 0.5)["a"]
    for prune in range(0, 33, 4):
        mask = select(weights, prune / 64)["a"]
        assert int((~mask).sum()) == prune
        assert not (~mask & final).any(), "a winner of its group was zeroed"
        gone, held = weights["a"].abs()[~mask], weights["a"].abs()[mask & ~final]
        if len(gone) and len(held):
            assert gone.max() <= held.min()
