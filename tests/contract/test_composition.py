"""Every part works beside every part of the other axes, or the method says why not at once."""

import dataclasses
import itertools

import pytest
import torch
from torch import nn

import steppe
from looped import looped
from steppe import Method, SteppeError
from steppe.core.group import Slice
from steppe.core.protocols import (
    AnyCoupling,
    Budget,
    Coupling,
    LevelBudget,
    Perturb,
    Schedule,
    Score,
    Structure,
    UnitBudget,
)
from steppe.core.statistic import STATISTICS

SPARSITY = 0.5
FORMS = {"nm": ["2:4"], "block": ["block:2x2"]}
KINDS = {
    "score": Score,
    "structure": Structure,
    "budget": Budget,
    "schedule": Schedule,
    "coupling": Coupling,
    "perturb": Perturb,
}
OUTPUT = Slice("layer.weight", 0, torch.zeros(1, 1, dtype=torch.long), "output")
TRAINED = [
    n
    for n in Score.registry
    if set(Score.make(n).needs) <= set(STATISTICS) and not Score.make(n).calibrated
]
STEPPING = [n for n in AnyCoupling.registry if issubclass(AnyCoupling.registry[n], Coupling)]
AXES = {
    # some rank by what only a coupling knows that solves a layer at once, and some read the norms
    # of coupled channels, which single layers do not have
    "score": [n for n in TRAINED if Score.make(n).reads(OUTPUT)],
    # what is cut out of language models is chosen layer by layer, in no loop of steps
    "structure": [
        form
        for name in Structure.registry
        if Structure.registry[name].removes is None
        for form in FORMS.get(name, [name])
    ],
    # those that choose among coupled channels only have a contract of their own, and those that mix
    # solved layers are for language models
    "budget": [
        n
        for n in Budget.registry
        if issubclass(Budget.registry[n], UnitBudget)
        and not issubclass(Budget.registry[n], LevelBudget)
    ],
    "schedule": list(Schedule.registry),
    "coupling": [n for n in STEPPING if AnyCoupling.registry[n].prunes],
    "perturb": list(Perturb.registry),
}
STEPS = 4


def impossible(**names):
    """Whether two of these parts refuse each other."""
    if any(not of_the_library(axis, name) for axis, name in names.items()):
        return refused(**names)
    return impossible_by_the_rules(**names)


def of_the_library(axis, name):
    """Whether the part is one of our own, of which the rules below speak."""
    part = type(Structure.make(name)) if axis == "structure" else KINDS[axis].registry[name]
    return part.__module__.startswith("steppe.")


def refused(**names):
    """Whether a method of these parts says that it cannot be; an outside part has its own rules."""
    try:
        build(**{"structure": "unstructured", "budget": "pooled"} | names)
    except SteppeError:
        return True
    return False


def impossible_by_the_rules(structure=None, budget=None, score=None, coupling=None, **_):
    """Written out from the rules, independently of `Part.fits`."""
    # of weights, not of their parts
    gradients = {"adam_second_moment", "fisher", "kfac", "snip", "taylor", "wanda"}
    if coupling in {"reparam", "soft_threshold"} and score in gradients:
        return True
    whole_rows = structure == "channel" and budget in {"per_row", "row_mass", "owl"}
    uneven = structure == "2:4" and budget in {"erk", "owl", "progression", "alpha_pruning"}
    tied = structure not in {None, "unstructured", "2:4"} or score not in {None, "magnitude"}
    return whole_rows or uneven or (budget == "alpha_pruning" and tied)


def covering():
    """A small set of combinations in which every possible pair of two axes' parts occurs."""
    axes = list(AXES)
    open_pairs = {
        ((a, x), (b, y))
        for a, b in itertools.combinations(axes, 2)
        for x in AXES[a]
        for y in AXES[b]
        if not impossible(**{a: x, b: y})
    }
    chosen = []
    while open_pairs:
        row = dict(min(open_pairs))
        for axis in axes:
            if axis in row:
                continue

            def gain(value, axis=axis, row=row, open_pairs=open_pairs):
                trial = row | {axis: value}
                if impossible(**trial):
                    return -1
                done = itertools.combinations(
                    sorted(trial.items(), key=lambda i: axes.index(i[0])), 2
                )
                return sum(pair in open_pairs for pair in done)

            row[axis] = max(AXES[axis], key=gain)
        row = {axis: row[axis] for axis in axes}
        before = len(open_pairs)
        open_pairs -= set(itertools.combinations(row.items(), 2))
        assert len(open_pairs) < before
        chosen.append(row)
    return chosen


def build(structure, budget, **parts):
    schedule = parts.get("schedule", "constant")
    if "cycles" in {f.name for f in dataclasses.fields(Schedule.registry[schedule])}:
        parts["schedule"] = {"name": schedule, "cycles": 2}
    return Method(structure=structure, budget={"name": budget, "sparsity": SPARSITY}, **parts)


class Conv1D(nn.Module):
    """As transformers' Conv1D: known by its name, the weight stored inputs first."""

    def __init__(self, nf, nx):
        super().__init__()
        self.nf = nf
        self.weight = nn.Parameter(torch.randn(nx, nf) / 3)
        self.bias = nn.Parameter(torch.zeros(nf))

    def forward(self, x):
        return x @ self.weight + self.bias


def network():
    return nn.Sequential(
        nn.Conv2d(4, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 2, groups=2),
        nn.Flatten(),
        Conv1D(8, 8),
        nn.ReLU(),
        nn.Linear(8, 4),
    )


@pytest.mark.parametrize("parts", covering(), ids=lambda p: "-".join(p.values()))
def test_composes(parts):
    method = build(**parts)
    assert Method.from_yaml(method.to_yaml()) == method
    model = network()
    # a statistic that is not gathered is one of Adam's
    if all(STATISTICS[need].gathered for need in method.score.needs):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    sparsifier = steppe.sparsify(model, optimizer, method, STEPS)
    x, y = torch.randn(6, 4, 4, 4), torch.randint(4, (6,))
    for _ in range(STEPS):

        def closure():
            outputs = model(x)
            return sparsifier.loss(nn.functional.cross_entropy(outputs, y), outputs=outputs)

        assert sparsifier.step(closure).isfinite()
    done = sparsifier.finish()
    units = sum(u[0] * u[1] for u in map(method.structure.units, sparsifier.layers))
    expected = round(SPARSITY * units)
    assert (done.units_zeroed, done.units) == (expected, units)
    weights = dict(model.named_parameters())
    for name, mask in done.masks.items():
        # what stays may be zero too, by a coupling's own doing or a score's
        assert not weights[name][~mask].any(), name
        assert (weights[name] != 0).any() == mask.any(), name
    assert all(p.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize("score", [n for n in TRAINED if n not in AXES["score"]])
def test_scores_of_coupled_channels_are_refused_without_groups(score):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, build("channel", "pooled", score=score), 1)
    with pytest.raises(SteppeError, match=rf"{score} looks at coupled channels.*groups"):
        sparsifier.step(lambda: model(torch.randn(2, 4, 4, 4)).sum())


@looped(structure=AXES["structure"])
@pytest.mark.parametrize("budget", AXES["budget"])
def test_impossible_ones_are_refused_when_built(structure, budget):
    if impossible(structure=structure, budget=budget):
        with pytest.raises(SteppeError, match=budget):
            build(structure, budget)
    else:
        build(structure, budget)


@pytest.mark.parametrize("coupling", AXES["coupling"])
@looped(score=AXES["score"])
def test_parts_of_weights_have_no_score_that_needs_gradients(score, coupling):
    if impossible(score=score, coupling=coupling):
        with pytest.raises(SteppeError, match=score):
            build("unstructured", "pooled", score=score, coupling=coupling)
    else:
        build("unstructured", "pooled", score=score, coupling=coupling)


@pytest.mark.parametrize("form", ["2:4", "1:4", "4:8"])
def test_nm_with_another_sparsity_is_refused(form):
    with pytest.raises(SteppeError, match="sparsity"):
        Method(structure=form, budget={"name": "pooled", "sparsity": 0.9})


def test_layers_that_cannot_have_the_shape_are_named():
    model = nn.Sequential(nn.Linear(6, 4), nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"0\.weight"):
        steppe.sparsify(model, optimizer, build("2:4", "pooled"), 1)
    with pytest.raises(SteppeError, match=r"1\.weight"):
        steppe.sparsify(model, optimizer, build("block:2x2", "pooled"), 1)
    steppe.sparsify(model, optimizer, build("block:2x2", "pooled"), 1, exclude=["1"])
