"""Frozen and complex weights are left out, and named."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from looped import looped
from steppe import SteppeError, methods

X, Y = torch.randn(16, 8), torch.arange(16) % 4
METHODS = {
    "gmp": methods.gmp(sparsity=0.5, every=1),
    "safe": methods.safe(sparsity=0.5, penalty=1.0, interval=1),
    "pilot": methods.pilot(sparsity=0.5, decay="constant"),
    "lasso": methods.lasso(sparsity=0.5),
    "iht": methods.iht(sparsity=0.5),
}


def network():
    return nn.Sequential(nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 4))


def run(model, method, optimizer=None, steps=4, **given):
    optimizer = optimizer or torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.5)
    if method.name == "lasso":
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, steps, **given)
    for _ in range(steps):
        sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    return sparsifier, sparsifier.finish()


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_frozen_weights_stay_and_are_named(method):
    model = network()
    model[0].requires_grad_(False)
    before = [p.clone() for p in model[0].parameters()]
    sparsifier, done = run(model, method)
    assert all(map(torch.equal, before, model[0].parameters()))
    assert list(done.masks) == ["2.weight"]
    assert (done.zeros, done.total) == (12, 24)
    assert any("0.weight" in note and "frozen" in note for note in sparsifier.notes)


def test_frozen_weights_need_no_optimizer():
    model = network()
    model[0].requires_grad_(False)
    head = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    _, done = run(model, METHODS["gmp"], head)
    assert done.total == 24


def test_where_all_is_frozen_one_line_says_so():
    model = network()
    for name in ("0", "2"):
        model.get_submodule(name).weight.requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"0.weight, 2.weight frozen"):
        steppe.sparsify(model, optimizer, METHODS["gmp"], 2)
    _, done = run(model, methods.dense(), optimizer)
    assert done.zeros == 0


def test_dense_takes_any_part_of_a_model():
    model = network()
    before = model[0].weight.clone()
    run(model, methods.dense(), torch.optim.SGD(model[2].parameters(), lr=0.1))
    assert torch.equal(model[0].weight, before)


def test_one_that_is_unfrozen_later_is_told():
    model = network()
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, METHODS["gmp"], 3)
    sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    model[0].requires_grad_(True)
    before = model[0].weight.detach().clone()
    with pytest.warns(UserWarning, match=r"0.weight was frozen"):
        sparsifier.step(lambda: F.cross_entropy(model(X), Y))
    assert not torch.equal(model[0].weight, before)
    sparsifier.step(lambda: F.cross_entropy(model(X), Y))  # once is enough
    assert int((model[0].weight == 0).sum()) == 0
    assert sparsifier.finish().total == 24


class Complex(nn.Module):
    def __init__(self):
        super().__init__()
        self.wave, self.out = nn.Linear(8, 6, dtype=torch.cfloat), nn.Linear(6, 4)

    def forward(self, x):
        return self.out(self.wave(x.to(torch.cfloat)).abs())


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_complex_weights_are_trained_and_stay_dense(method):
    model = Complex()
    before = model.wave.weight.detach().clone()
    sparsifier, done = run(model, method)
    assert not torch.equal(before, model.wave.weight)
    assert (done.zeros, done.total) == (12, 24)
    assert any("wave.weight" in note for note in sparsifier.notes)
    with pytest.raises(SteppeError, match=r"wave\.weight complex"):
        run(model, method, include=["wave"])


@looped(frozen=["0.weight", "1.bias", "3.weight"])
def test_groups_of_channels_with_frozen_tensors_stay_whole(frozen):
    model = nn.Sequential(
        nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 4, 3), nn.ReLU(),
        nn.Conv2d(4, 4, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
    )  # fmt: skip
    x = torch.randn(4, 2, 8, 8)
    groups = steppe.channel_groups(model, x)
    model.get_parameter(frozen).requires_grad_(False)
    before = model.get_parameter(frozen).detach().clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = methods.gmp(sparsity=0.5, every=1, structure="channel")
    sparsifier = steppe.sparsify(model, optimizer, method, 2, groups=groups)
    for _ in range(2):
        sparsifier.step(lambda: F.cross_entropy(model(x), torch.arange(4) % 3))
    done = sparsifier.finish()
    assert torch.equal(model.get_parameter(frozen), before)
    assert 0 < done.units_zeroed < done.units < sum(g.units for g in groups)
    assert any(frozen in note for note in sparsifier.notes)
