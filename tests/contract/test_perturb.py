"""What every perturbation fulfils."""

import dataclasses

import pytest
import torch

import steppe
from looped import looped
from steppe import SteppeError
from steppe.core.protocols import Perturb

PERTURBS = [n for n in Perturb.registry if Perturb.make(n).active]
SHAPES = [(4, 3), (4,), (2, 3, 2, 2), ()]
NAMES = ["a.weight", "a.bias", "b.weight", "scale"]


def example(dtype=torch.float32):
    weights = [torch.randn(s).to(dtype) for s in SHAPES]
    grads = [torch.randn(s).to(dtype) for s in SHAPES]
    return weights, grads


@pytest.mark.parametrize("name", PERTURBS)
@looped(dtype=[torch.float32, torch.float64, torch.float16, torch.bfloat16])
@looped(scale=[1.0, 1e-4, 0.0])
def test_finite_and_shaped_as_the_weights(name, dtype, scale):
    weights, grads = example(dtype)
    grads = [g * scale for g in grads]
    kept = [t.clone() for t in weights + grads]
    eps = Perturb.make(name).perturbation(weights, grads, NAMES)
    assert [e.shape for e in eps] == [w.shape for w in weights]
    assert all(e.isfinite().all() for e in eps)
    # a single number may be wider: torch promotes it beside the float32 norm
    assert all(e.dtype == dtype for e in eps if e.ndim)
    if scale == 0.0:
        assert all(not e.any() for e in eps), "no gradient, no direction"
    assert all(torch.equal(a, b) for a, b in zip(weights + grads, kept, strict=True))


@pytest.mark.parametrize("name", PERTURBS)
def test_one_norm_over_all_parameters(name):
    """Cutting a layer's neurons in two, or another order of the tensors, changes nothing."""
    weights, grads = example(torch.float64)
    perturb = Perturb.make(name)
    whole = perturb.perturbation(weights, grads, NAMES)

    def cut(tensors):
        first, bias = tensors[:2]
        return [tensors[3], tensors[2], bias[:1], bias[1:], first[:1], first[1:]]

    names = [NAMES[3], NAMES[2], "a0.bias", "a1.bias", "a0.weight", "a1.weight"]
    parts = perturb.perturbation(cut(weights), cut(grads), names)
    again = [torch.cat(parts[4:]), torch.cat(parts[2:4]), parts[1], parts[0]]
    for a, b in zip(whole, again, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", PERTURBS)
def test_length_of_the_gradient_does_not_matter(name):
    weights, grads = example()
    perturb = Perturb.make(name)
    once = perturb.perturbation(weights, grads, NAMES)
    scaled = perturb.perturbation(weights, [g * 1024 for g in grads], NAMES)
    for a, b in zip(once, scaled, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("name", PERTURBS)
def test_it_climbs(name):
    """Along the gradient at x, or to where the momentum leads, which is downhill."""
    weights, grads = example()
    perturb = Perturb.make(name)
    eps = perturb.perturbation(weights, grads, NAMES)
    along = {"gradient": 1.0, "momentum": -1.0}[perturb.along]
    assert sum(float((along * e * g).sum()) for e, g in zip(eps, grads, strict=True)) > 0


@pytest.mark.parametrize("name", list(Perturb.registry))
def test_a_step_costs_as_many_gradients_as_it_says(name):
    perturb = Perturb.make(name)
    model = torch.nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, steppe.methods.dense().replace(perturb=name), 2)
    calls = []

    def closure():
        calls.append(sparsifier.steps_done)
        outputs = model(torch.ones(3, 4))
        return sparsifier.loss(outputs.square().mean(), outputs=outputs)

    for _ in range(2):
        sparsifier.step(closure)
    assert [calls.count(step) for step in range(2)] == [perturb.gradients] * 2


@pytest.mark.parametrize("name", PERTURBS)
def test_radius(name):
    """rho scales eps; 0 costs nothing; no other radius is allowed."""
    perturb = Perturb.make(name)
    if "rho" not in {f.name for f in dataclasses.fields(perturb)}:
        pytest.skip("no radius")
    weights, grads = example()
    eps = perturb.perturbation(weights, grads, NAMES)
    wide = dataclasses.replace(perturb, rho=perturb.rho * 2)
    for a, b in zip(eps, wide.perturbation(weights, grads, NAMES), strict=True):
        torch.testing.assert_close(a * 2, b)
    assert not dataclasses.replace(perturb, rho=0.0).active
    for rho in (-0.1, float("inf"), float("nan")):
        with pytest.raises(SteppeError, match="rho"):
            dataclasses.replace(perturb, rho=rho)


def test_without_perturbation_there_is_no_second_pass():
    assert not Perturb.make("none").active
