"""Functional SAM: the Jacobian of the outputs moves, the gradient by the outputs does not."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError, methods
from steppe.perturb.functional_sam import FunctionalSam
from steppe.perturb.sam import Sam

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(1))
Y = torch.arange(40) % 4
STEPS = 5


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 30), nn.ReLU(), nn.Linear(30, 4))


def sgd(params):
    return torch.optim.SGD(params, lr=0.1, momentum=0.9)


def cross_entropy(outputs, y):
    return F.cross_entropy(outputs, y)


def sparsifier_of(model, perturb, method=None, **given):
    method = (method or methods.dense()).replace(perturb=perturb)
    return steppe.sparsify(model, sgd(model.parameters()), method, STEPS, **given)


def closure_of(s, model, x, y, loss=cross_entropy):
    def closure():
        outputs = model(x)
        return s.loss(loss(outputs, y), outputs=outputs)

    return closure


def trained(perturb, parts=1, loss=cross_entropy, steps=STEPS, **given):
    model = network()
    s = sparsifier_of(model, perturb, **given)
    for _ in range(steps):
        s.step(*[closure_of(s, model, X[i::parts], Y[i::parts], loss) for i in range(parts)])
    return model, s


def transcribed(rho):
    model = network()
    params, optimizer = list(model.parameters()), sgd(model.parameters())
    for _ in range(STEPS):
        logits = model(X)
        loss = cross_entropy(logits, Y)
        (v,) = torch.autograd.grad(loss, [logits], retain_graph=True)
        grads = torch.autograd.grad(loss, params)
        length = torch.stack([g.norm() for g in grads]).norm()
        x = [p.detach().clone() for p in params]
        with torch.no_grad():
            for p, g in zip(params, grads, strict=True):
                p.add_(rho / (length + 1e-12) * g)
        logits = model(X)
        for p, g in zip(params, torch.autograd.grad(logits, params, v), strict=True):
            p.grad = g
        with torch.no_grad():
            for p, at in zip(params, x, strict=True):
                p.copy_(at)
        optimizer.step()
    return model


def gap(a, b):
    return max(
        float((p - q).detach().abs().max())
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )


@pytest.mark.parametrize("rho", [0.05, 0.5])
def test_as_a_plain_loop(rho):
    assert gap(trained(FunctionalSam(rho=rho))[0], transcribed(rho)) == 0.0
    assert gap(trained(FunctionalSam(rho=rho))[0], trained(Sam(rho=rho))[0]) > 1e-4


def test_a_loss_that_is_linear_in_the_outputs_makes_it_sam():
    def linear(outputs, y):
        return (outputs * torch.linspace(-1, 1, 4)).sum(1).mean()

    ours, sam = (trained(p, loss=linear)[0] for p in (FunctionalSam(rho=0.5), Sam(rho=0.5)))
    assert gap(ours, sam) == 0.0
    assert gap(ours, trained("none", loss=linear)[0]) > 1e-4


def test_what_the_closure_makes_of_the_loss_counts():
    """A weight of the batch, as where the processes share it unevenly."""
    model = network()
    s = sparsifier_of(model, FunctionalSam(rho=0.05))
    inner = closure_of(s, model, X, Y)
    for _ in range(STEPS):
        s.step(lambda: inner() * 3)
    assert gap(model, transcribed(0.05)) > 1e-3
    tripled = trained(FunctionalSam(rho=0.05), loss=lambda o, y: 3 * F.cross_entropy(o, y))[0]
    assert gap(model, tripled) < 1e-6


def test_micro_batches_and_a_scaler_change_nothing():
    whole = trained(FunctionalSam(rho=0.05))[0]
    assert gap(whole, trained(FunctionalSam(rho=0.05), parts=4)[0]) < 1e-5
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    assert gap(whole, trained(FunctionalSam(rho=0.05), scaler=scaler)[0]) < 1e-6


def test_an_overflow_leaves_the_step_out():
    model = network()
    s = sparsifier_of(
        model, FunctionalSam(rho=0.05), scaler=torch.amp.GradScaler("cpu", init_scale=2.0**10)
    )
    before = copy.deepcopy(model)
    inner = closure_of(s, model, X, Y)
    s.step(lambda: inner() * float("inf"))
    assert gap(before, model) == 0.0
    s.step(inner)
    assert gap(before, model) > 0.0


def test_under_autocast():
    model = network()
    s = sparsifier_of(model, FunctionalSam(rho=0.05))

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            outputs = model(X)
        return s.loss(F.cross_entropy(outputs.float(), Y), outputs=outputs)

    for _ in range(STEPS):
        s.step(closure)
    assert gap(model, transcribed(0.05)) < 0.02


def test_resumes_bit_for_bit():
    method = methods.gmp(sparsity=0.5, every=1)
    whole, _ = trained(FunctionalSam(rho=0.5), method=method)
    half, s = trained(FunctionalSam(rho=0.5), method=method, steps=2)
    model = network()
    model.load_state_dict(half.state_dict())
    again = sparsifier_of(model, FunctionalSam(rho=0.5), method)
    again.load_state_dict(copy.deepcopy(s.state_dict()))
    for _ in range(2, STEPS):
        again.step(closure_of(again, model, X, Y))
    assert gap(model, whole) == 0.0


def test_beside_an_objective_of_its_own():
    method = methods.gmp(sparsity=0.5).replace(objective="distillation")
    model = network()
    s = sparsifier_of(model, FunctionalSam(rho=0.5), method)

    def closure():
        outputs = model(X)
        return s.loss(F.cross_entropy(outputs, Y), outputs=outputs, inputs=X)

    for _ in range(STEPS):
        assert s.step(closure).isfinite()
    assert s.finish().sparsity == 0.5


def only_a_loss(s, model):
    return F.cross_entropy(model(X), Y)


def detached(s, model):
    outputs = model(X)
    return s.loss(F.cross_entropy(outputs, Y), outputs=outputs.detach())


def with_a_penalty(s, model):
    outputs = model(X)
    return s.loss(F.cross_entropy(outputs, Y) + model[0].weight.square().sum(), outputs=outputs)


def test_a_penalty_that_begins_later_is_refused_too():
    model = network()
    s = sparsifier_of(model, "functional_sam")
    s.step(closure_of(s, model, X, Y))
    with pytest.raises(SteppeError, match="1 parameters by other ways"):
        s.step(closure_of(s, model, X[::2], Y[::2]), lambda: with_a_penalty(s, model))


@pytest.mark.parametrize(
    ("closure", "said"),
    [
        (only_a_loss, "got a closure that gives only a loss.*sparsifier.loss"),
        (detached, "got outputs that are detached"),
        (with_a_penalty, "got a loss that depends on 1 parameters by other ways.*weight_decay"),
    ],
)
def test_what_it_cannot_see_is_refused(closure, said):
    model = network()
    s = sparsifier_of(model, FunctionalSam())
    with pytest.raises(SteppeError, match=said):
        s.step(lambda: closure(s, model))
    s.step(closure_of(s, model, X, Y))  # the way out works


def test_outputs_of_another_shape_in_the_second_pass_are_refused():
    model = network()
    s = sparsifier_of(model, FunctionalSam())
    sizes = iter((40, 30))

    def closure():
        n = next(sizes)
        return closure_of(s, model, X[:n], Y[:n])()

    with pytest.raises(SteppeError, match="the same outputs again"):
        s.step(closure)


def test_nothing_keeps_the_outputs_of_a_step():
    _, s = trained(FunctionalSam(), steps=1)
    assert not s._passes._outputs._seen
    assert not s._passes.gathering
