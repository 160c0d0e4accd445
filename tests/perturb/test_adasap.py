"""AdaSAP: a radius for each neuron, from the least to the most important."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from steppe.core.errors import SteppeError
from steppe.core.neurons import Neurons
from steppe.perturb.adasap import AdaSap
from steppe.perturb.asam import Asam
from steppe.perturb.sam import Sam

NAMES = ["a.weight", "a.bias", "n.weight", "b.weight", "b.bias"]


def example(dtype=torch.float32):
    shapes = [(6, 3, 2, 2), (6,), (6,), (4, 6), (4,)]
    weights = [torch.randn(shape, dtype=dtype) for shape in shapes]
    return weights, [torch.randn_like(w) for w in weights]


def radii_of(part, weights, names=NAMES):
    """The radius of each row of each tensor, as `rows_of` has them; one for what is no row's."""
    neurons = Neurons.rows_of(weights, names)
    every = part.radii(neurons)
    return [every[neurons.members.get(n, torch.tensor([-1])).flatten()] for n in names]


def test_the_ends_of_the_map():
    weights, _ = example()
    radii = radii_of(AdaSap(rho_min=0.1, rho_max=2.0), weights)
    scores = torch.cat([w.flatten(1).norm(dim=1) for w in (weights[0], weights[3])])
    flat = torch.cat([radii[0], radii[3]])
    assert float(flat[scores.argmin()]) == pytest.approx(2.0)
    assert float(flat[scores.argmax()]) == pytest.approx(0.1)
    # monotone: more important, less perturbed
    assert bool((flat[scores.argsort()].diff() <= 0).all())
    assert torch.equal(radii[1], radii[0])  # a bias with its neuron
    assert torch.equal(radii[4], radii[3])
    # what is of no neuron: as a neuron of mean score, or as said
    torch.testing.assert_close(radii[2], flat.mean()[None])
    assert radii_of(AdaSap(rho_rest=0.7), weights)[2].tolist() == [pytest.approx(0.7)]
    by_layer = radii_of(AdaSap(rho_min=0.1, rho_max=2.0, scope="layer"), weights)
    for i in (0, 3):
        assert float(by_layer[i].max()) == pytest.approx(2.0)
        assert float(by_layer[i].min()) == pytest.approx(0.1)


@settings(deadline=None)
@given(st.floats(0.1, 100.0))
def test_the_scale_of_the_scores_does_not_matter(factor):
    torch.manual_seed(0)
    weights, _ = example(torch.float64)
    one = radii_of(AdaSap(), weights)
    other = radii_of(AdaSap(), [factor * w for w in weights])
    for a, b in zip(one, other, strict=True):
        torch.testing.assert_close(a, b)


@settings(deadline=None)
@given(st.floats(0.0, 50.0), st.floats(0.1, 10.0))
def test_the_map_is_affine_invariant(shift, factor):
    scores = torch.tensor([1.0, 3.0, 2.0, 7.0], dtype=torch.float64)

    def radii(scores):
        alive = torch.ones(4, dtype=torch.bool)
        return AdaSap().radii(Neurons(members={}, sizes=(4,), scores=scores, alive=alive))

    torch.testing.assert_close(radii(scores), radii(factor * scores + shift))


@pytest.mark.parametrize("rho", [0.05, 0.5, 2.0])
def test_equal_radii_are_asam_or_sam_bit_for_bit(rho):
    weights, grads = example()
    same = {"rho_min": rho, "rho_max": rho}
    for mine, theirs in (
        (AdaSap(**same), Asam(rho=rho)),
        (AdaSap(**same, eta=0.0), Asam(rho=rho, eta=0.0)),
    ):
        perturbations = mine.perturbation(weights, grads, NAMES)
        for a, b in zip(perturbations, theirs.perturbation(weights, grads, NAMES), strict=True):
            assert torch.equal(a, b)
    perturbations = AdaSap(**same, adaptive=False).perturbation(weights, grads, NAMES)
    for a, b in zip(perturbations, Sam(rho=rho).perturbation(weights, grads, NAMES), strict=True):
        assert torch.equal(a, b)


@pytest.mark.parametrize("norm", ["global", "neuron"])
@pytest.mark.parametrize("adaptive", [True, False])
def test_neuron_by_neuron(norm, adaptive):
    weights, grads = example(torch.float64)
    part = AdaSap(norm=norm, adaptive=adaptive, eta=0.1)
    perturbations = part.perturbation(weights, grads, NAMES)
    radii = radii_of(part, weights)
    t = [
        w.abs() + 0.1 if adaptive and "weight" in n else torch.ones_like(w)
        for w, n in zip(weights, NAMES, strict=True)
    ]
    whole = sum(float((a * g).square().sum()) for a, g in zip(t, grads, strict=True)) ** 0.5
    for weight, bias in ((0, 1), (3, 4)):
        for i in range(len(weights[weight])):
            both = (t[weight][i] * grads[weight][i]).square().sum() + grads[bias][i] ** 2
            over = whole if norm == "global" else float(both) ** 0.5
            for k in (weight, bias):
                wanted = radii[weight][i] * t[k][i] ** 2 * grads[k][i] / over
                torch.testing.assert_close(perturbations[k][i], wanted, rtol=1e-6, atol=0)


def test_removed_neurons_have_no_say_and_stay():
    weights, grads = example()
    before = radii_of(AdaSap(), weights)
    more = [
        torch.cat([weights[0], torch.zeros(2, 3, 2, 2)]),
        torch.cat([weights[1], torch.ones(2)]),
    ]
    after = radii_of(AdaSap(), [*more, *weights[2:]])
    assert torch.equal(after[0][:6], before[0])
    assert not after[0][6:].any()
    more_grads = [torch.randn_like(w) for w in more]
    eps = AdaSap().perturbation([*more, *weights[2:]], [*more_grads, *grads[2:]], NAMES)
    assert not eps[0][6:].any()
    assert not eps[1][6:].any()
    assert eps[0][:6].all()


def test_the_order_of_neurons_and_layers_does_not_matter():
    weights, grads = example(torch.float64)
    eps = AdaSap().perturbation(weights, grads, NAMES)
    order = torch.randperm(6)
    shuffled = [w[order] if i < 3 else w for i, w in enumerate(weights)]
    moved = [g[order] if i < 3 else g for i, g in enumerate(grads)]
    again = AdaSap().perturbation(shuffled, moved, NAMES)
    torch.testing.assert_close(again[0], eps[0][order], rtol=1e-6, atol=0)
    back = AdaSap().perturbation(weights[::-1], grads[::-1], NAMES[::-1])[::-1]
    for a, b in zip(back, eps, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=0)


def test_equal_scores_take_the_smaller_radius_and_nothing_is_no_nan():
    weights = [torch.ones(3, 4)]
    assert radii_of(AdaSap(), weights, ["weight"])[0].tolist() == [pytest.approx(0.01)] * 3
    zero = [torch.zeros(3, 4)]
    assert not AdaSap().perturbation(zero, [torch.ones(3, 4)], ["weight"])[0].any()
    assert AdaSap().perturbation([torch.ones(2)], [torch.ones(2)], ["bias"])[0].isfinite().all()


@pytest.mark.parametrize(
    "wrong",
    [
        {"rho_min": 3.0},
        {"rho_rest": -1.0},
        {"rho_max": float("inf")},
        {"scope": "block"},
        {"norm": "l1"},
    ],
)
def test_what_is_refused(wrong):
    with pytest.raises(SteppeError):
        AdaSap(**wrong)
