"""K-FAC's surgeon beside the inverse of the whole Fisher matrix."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional

import steppe
from steppe import Method, SteppeError
from steppe.score.kfac.kfac import Kfac, stiffness


def drawn(*shape):
    return torch.randn(shape, dtype=torch.float64)


def factorial(bias):
    """A layer, its statistics, and the single samples' gradients: each input meets each gradient.

    So inputs and gradients are independent, and the Fisher matrix is exactly a Kronecker product.
    """
    model = nn.Sequential(nn.Linear(3, 4, bias=bias)).double()
    inputs, pulls = drawn(9, 3), drawn(7, 4)
    x, d = inputs.repeat_interleave(7, 0), pulls.repeat(9, 1)
    method = Method(score="kfac", budget={"name": "pooled", "sparsity": 0.5}, schedule="one_shot")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = steppe.sparsify(model, optimizer, method, 2)
    sparsifier.step(lambda: (model(x) * d).sum(1).mean())
    statistics = sparsifier.state_dict()["statistics"]
    stats = {need: values["0.weight"] for need, values in statistics.items()}
    samples = []
    for one, pull in zip(x, d, strict=True):
        grads = torch.autograd.grad((model(one) * pull).sum(), list(model.parameters()))
        # [outputs, inputs + bias], flattened
        samples.append(torch.cat([g.reshape(4, -1) for g in grads], 1).flatten())
    return model[0].weight.detach(), stats, torch.stack(samples)


@pytest.mark.parametrize("bias", [True, False])
def test_surgeon_with_the_inverse_of_the_whole_fisher_matrix(bias):
    weight, stats, samples = factorial(bias)
    fisher = samples.T @ samples / len(samples)
    inverse = torch.linalg.inv(fisher).diagonal().reshape(4, -1)[:, :3]
    score = Kfac(damping=1e-16).score(weight, stats, "w")
    torch.testing.assert_close(score.square() / 2, weight.square() / (2 * inverse))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("damping", [1e-4, 1e-1, 10.0])
def test_surgeon_with_the_damped_fisher_matrix(bias, damping):
    weight, stats, samples = factorial(bias)
    g, a = stats["kfac_rows"][0], stats["kfac_columns"][0]
    trace_a, trace_g = a.trace() / len(a), g.trace() / len(g)
    # Martens & Grosse, section 6.3, from its own letters
    lam, pi = damping * trace_a * trace_g, (trace_a / trace_g).sqrt()
    eyes = torch.eye(len(g), dtype=a.dtype), torch.eye(len(a), dtype=a.dtype)
    whole = samples.T @ samples / len(samples)
    whole += pi * lam.sqrt() * torch.kron(g, eyes[1]) + lam.sqrt() / pi * torch.kron(eyes[0], a)
    whole += lam * torch.kron(*eyes)
    inverse = torch.linalg.inv(whole).diagonal().reshape(4, -1)[:, :3]
    score = Kfac(damping=damping).score(weight, stats, "w")
    torch.testing.assert_close(score.square(), weight.square() / inverse)


def test_the_rise_of_the_loss_when_the_others_make_up_for_it():
    weight, stats, samples = factorial(bias=True)
    fisher = samples.T @ samples / len(samples)
    score = Kfac(damping=1e-16).score(weight, stats, "w")
    for i, j in [(0, 0), (1, 2), (3, 1)]:
        at = 4 * i + j
        free = [k for k in range(16) if k != at]
        change = torch.zeros(16, dtype=torch.float64)
        change[at] = -weight[i, j]
        right = -fisher[free, at] * change[at]
        change[free] = torch.linalg.solve(fisher[free][:, free], right)
        torch.testing.assert_close(score[i, j] ** 2 / 2, change @ fisher @ change / 2)


@pytest.mark.parametrize("bias", [0, 1])
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 2)], ids=str)
def test_without_correlations_it_ranks_as_magnitude(shape, bias):
    weight = torch.randn(shape)
    columns = weight[0].numel() + bias
    stats = {"kfac_rows": torch.eye(4)[None], "kfac_columns": 3 * torch.eye(columns)[None]}
    stats["kfac_mean"] = torch.ones(1)
    score = Kfac().score(weight, stats, "w")
    torch.testing.assert_close(score / weight, (score / weight).mean().expand(shape))
    assert torch.equal(score.abs().flatten().argsort(), weight.abs().flatten().argsort())


def test_the_bias_is_one_of_the_others():
    """It makes up for inputs whose mean is not 0, so their weights cost less."""
    with_bias, without = factorial(bias=True), factorial(bias=False)
    a = with_bias[1]["kfac_columns"][0]
    assert a.shape == (4, 4)
    assert without[1]["kfac_columns"].shape == (1, 3, 3)
    assert a[3, 3] == 1.0
    rows = torch.eye(4, dtype=torch.float64)[None]
    weight = torch.ones(4, 3, dtype=torch.float64)
    scores = [
        Kfac(damping=1e-16).score(
            weight, {"kfac_rows": rows, "kfac_columns": c[None], "kfac_mean": rows[0, :1, 0]}, "w"
        )
        for c in (a, a[:3, :3])
    ]
    centred = a[:3, :3] - torch.outer(a[:3, 3], a[:3, 3])
    exact = torch.linalg.inv(centred).diagonal().rsqrt()
    torch.testing.assert_close(stiffness(a[None], torch.tensor([1e-12]).double())[0, :3], exact)
    assert (scores[0] < scores[1]).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_damping_keeps_what_has_no_inverse_positive(dtype):
    v = torch.randn(2, 30, dtype=dtype)
    few = (v.T @ v)[None]  # rank 2 of 30
    for damp in (1e-5, 1e-3, 1.0):
        diagonal = stiffness(few, torch.tensor([damp], dtype=dtype))
        assert diagonal.isfinite().all()
        assert (diagonal > 0).all()


@pytest.mark.parametrize("mean", [0.0, 2.0])
def test_a_layer_without_gradients_has_the_damping_alone(mean):
    weight = torch.randn(4, 5)
    stats = {
        "kfac_rows": torch.zeros(1, 4, 4),
        "kfac_columns": torch.zeros(1, 5, 5),
        "kfac_mean": torch.full((1,), mean),
    }
    score = Kfac(damping=0.25).score(weight, stats, "w")
    torch.testing.assert_close(score, weight * 0.5 * mean)  # sqrt(lam)
    stats["kfac_columns"] = torch.ones(1, 5, 5)
    assert Kfac().score(weight, stats, "w").isfinite().all()


def test_much_damping_ranks_layers_as_magnitude_does():
    stats = [factorial(bias=True)[1] for _ in range(2)]
    weight = drawn(4, 3)
    for one in stats:
        score = Kfac(damping=1e12).score(weight, one | {"kfac_mean": torch.ones(1).double()}, "w")
        torch.testing.assert_close(score, 1e6 * weight, rtol=1e-4, atol=0.0)


@pytest.mark.parametrize("damping", [0.0, -1.0, float("nan"), float("inf")])
def test_impossible_damping(damping):
    with pytest.raises(SteppeError, match="damping above 0"):
        Kfac(damping=damping)


def test_what_is_not_finite_is_named():
    stats = {"kfac_rows": torch.eye(2)[None], "kfac_columns": torch.full((1, 3, 3), torch.nan)}
    stats["kfac_mean"] = torch.ones(1)
    with pytest.raises(SteppeError, match=r"nan at conv\.weight"):
        Kfac().score(torch.ones(2, 3), stats, "conv.weight")


def test_mlprune_prunes_at_its_point_and_goes_on_from_a_checkpoint():
    torch.manual_seed(0)
    x, y = torch.randn(64, 1, 6, 6), torch.randint(3, (64,))

    def made():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(144, 3)
        )
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        method = steppe.methods.mlprune(sparsity=0.8, at=0.5)
        return model, steppe.sparsify(model, optimizer, method, 8)

    def go(model, sparsifier, steps):
        for _ in range(steps):
            sparsifier.step(lambda: functional.cross_entropy(model(x), y))

    model, sparsifier = made()
    go(model, sparsifier, 2)
    # a copy, as torch's optimisers share the tensors of a state that they load
    state, weights = copy.deepcopy((sparsifier.state_dict(), model.state_dict()))
    other, resumed = made()
    other.load_state_dict(weights)
    resumed.load_state_dict(state)
    go(other, resumed, 6)
    go(model, sparsifier, 1)
    assert all(w.all() for w in sparsifier.weights.values())
    go(model, sparsifier, 1)
    zeros = {n: w == 0 for n, w in sparsifier.weights.items()}
    total = sum(z.numel() for z in zeros.values())
    assert sum(int(z.sum()) for z in zeros.values()) == round(0.8 * total)
    go(model, sparsifier, 4)
    done = sparsifier.finish()
    assert all(torch.equal(~zeros[n], done.masks[n]) for n in zeros)
    assert all(torch.equal(m, resumed.finish().masks[n]) for n, m in done.masks.items())
    assert torch.equal(model[3].weight, other[3].weight)


@pytest.mark.parametrize("bias", [True, False])
def test_compensation_with_the_inverse_of_the_whole_fisher_matrix(bias):
    """As many as go at once; the bias is not one of the weights and stays."""
    weight, stats, samples = factorial(bias)
    whole = (samples.T @ samples / len(samples)).reshape(4, 3 + bias, 4, 3 + bias)
    fisher = whole[:, :3, :, :3].reshape(12, 12)
    keep = torch.tensor([True, False, True] * 4)
    change = torch.where(keep, 0.0, -weight.flatten())
    change[keep] = -torch.linalg.solve(fisher[keep][:, keep], fisher[keep] @ change)
    made = Kfac(damping=1e-16).compensate(weight, keep.reshape(4, 3), stats, "w")
    torch.testing.assert_close(made.flatten(), weight.flatten() + change, rtol=1e-6, atol=1e-8)
