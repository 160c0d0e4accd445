"""A model whose weights are products works as before, and is itself again at the end."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
METHODS = {
    "pilot": lambda: steppe.methods.pilot(sparsity=0.5, decay="constant", at=0.5),
    "spred": lambda: steppe.methods.spred(sparsity=0.5, at=0.5),
    "soft_threshold": lambda: steppe.methods.soft_threshold(sparsity=0.5, at=0.5),
}
each = pytest.mark.parametrize("name", METHODS)


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, groups=2),
        nn.Flatten(),
        nn.Linear(128, 4),
    )


def sgd(model, **options):
    return torch.optim.SGD(model.parameters(), **({"lr": 0.1, "momentum": 0.9} | options))


@each
def test_nothing_changes_at_first_and_folding_changes_nothing(name):
    model, method = network().eval(), METHODS[name]()
    keys, kinds = list(model.state_dict()), [type(m) for m in model]
    before = model(X)
    s = steppe.sparsify(model, sgd(model), method, 4)
    torch.testing.assert_close(model(X), before, atol=1e-5, rtol=1e-5)
    model.train()
    for _ in range(3):
        s.step(lambda: model(X).square().mean())
    s.step(lambda: model(X).square().mean())
    held = {n: w.clone() for n, w in s.weights.items()}
    model.eval()
    cut = model(X)
    done = s.finish()
    assert torch.equal(model(X), cut)
    assert [type(m) for m in model] == kinds
    assert list(model.state_dict()) == keys or set(model.state_dict()) == set(keys)
    weights = dict(model.named_parameters())
    for n, w in held.items():
        assert isinstance(weights[n], nn.Parameter)
        assert torch.equal(weights[n], w)
        assert torch.equal(weights[n] != 0, done.masks[n])
    assert {n: w.data_ptr() for n, w in s.weights.items()} == {
        n: weights[n].data_ptr() for n in held
    }


@each
def test_the_optimiser_holds_the_parts_and_then_the_weights(name):
    model, method = network(), METHODS[name]()
    optimizer = sgd(model)
    names = [n for n, _ in model.named_parameters()]
    s = steppe.sparsify(model, optimizer, method, 2)
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert len(held) == len(names) + 3
    for _ in range(2):
        s.step(lambda: model(X).square().mean())
    s.finish()
    held = {id(p) for g in optimizer.param_groups for p in g["params"]}
    assert held == {id(p) for p in model.parameters()}
    assert len(held) == len(names)
    # and goes on training them
    optimizer.zero_grad()
    model(X).square().mean().backward()
    before = model[5].weight.detach().clone()
    optimizer.step()
    assert not torch.equal(model[5].weight, before)


def test_weight_decay_of_the_factors_is_off_and_said():
    model = network()
    optimizer = sgd(model, weight_decay=0.01)
    s = steppe.sparsify(model, optimizer, METHODS["pilot"](), 2)
    decays = {id(p): g["weight_decay"] for g in optimizer.param_groups for p in g["params"]}
    for n, p in model.named_parameters():
        assert decays[id(p)] == (0.0 if "original" in n else 0.01), n
    assert "weight decay 0.01 is off for 3 tensors" in s.notes[0]
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.1]


def test_weight_decay_of_thresholds_stays():
    model = network()
    optimizer = sgd(model, weight_decay=0.01)
    s = steppe.sparsify(model, optimizer, METHODS["soft_threshold"](), 2)
    assert [g["weight_decay"] for g in optimizer.param_groups] == [0.01]
    assert not s.notes


def test_a_scheduler_made_before_is_refused():
    model = network()
    optimizer = sgd(model, weight_decay=0.01)
    torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 5)
    with pytest.raises(SteppeError, match="scheduler after sparsify"):
        steppe.sparsify(model, optimizer, METHODS["pilot"](), 2)


def test_tied_and_parametrised_weights_are_refused_by_name():
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    model[1].weight = model[0].weight
    with pytest.raises(SteppeError, match=r"0\.weight, which is tied"):
        steppe.sparsify(model, sgd(model), METHODS["pilot"](), 2)


def test_a_second_time_on_the_same_model_is_refused():
    model = network()
    steppe.sparsify(model, sgd(model), METHODS["pilot"](), 2)
    with pytest.raises(SteppeError, match="an earlier sparsify makes"):
        steppe.sparsify(model, sgd(model), METHODS["pilot"](), 2)


def test_a_wrapped_model_is_refused():
    model = network()
    wrapped = nn.DataParallel(model)
    with pytest.raises(SteppeError, match="before it is wrapped"):
        steppe.sparsify(wrapped, sgd(model), METHODS["pilot"](), 2)


def test_coupled_channels_are_refused():
    model = network()
    method = steppe.methods.pilot(sparsity=0.5, structure="channel", decay="constant")
    with pytest.raises(SteppeError, match="single layers"):
        steppe.sparsify(model, sgd(model), method, 2, groups=steppe.channel_groups(model, X[:1]))


def test_a_copy_outlives_the_folding_of_the_other():
    model = network()
    s = steppe.sparsify(model, sgd(model), METHODS["pilot"](), 2)
    s.step(lambda: model(X).square().mean())
    average = copy.deepcopy(model).eval()
    out = average(X)
    s.finish()
    assert torch.equal(average(X), out)
    assert "parametrizations.weight.original0" in dict(average[0].named_parameters())


@each
def test_autocast(name):
    model = network()
    s = steppe.sparsify(model, sgd(model), METHODS[name](), 3)

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(model(X).float(), torch.arange(8) % 4)

    losses = [s.step(closure) for _ in range(3)]
    assert all(value.isfinite() for value in losses)
    done = s.finish()
    assert done.zeros == round(0.5 * done.total)


def test_what_comes_after_finish_is_the_same_again():
    model = network()
    s = steppe.sparsify(model, sgd(model), METHODS["pilot"](), 1)
    s.step(lambda: model(X).square().mean())
    first, second = s.finish(), s.finish()
    assert first is second


@each
def test_compiled_after_sparsify(name):
    """The compiled model is the wrapper: names and folding are those of the plain one."""
    model = network()
    s = steppe.sparsify(model, sgd(model), METHODS[name](), 4)
    s.model = compiled = torch.compile(model, backend="aot_eager")
    torch.testing.assert_close(compiled(X), model(X))
    for _ in range(4):
        loss = s.step(lambda: compiled(X).square().mean())
    assert loss.isfinite()
    done = s.finish()
    assert done.zeros == sum(int((w == 0).sum()) for w in s.weights.values()) == 508
    torch.testing.assert_close(compiled(X), model(X))
