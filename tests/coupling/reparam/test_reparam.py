"""Products of two factors: what the theory says of them."""

import math

import pytest
import torch
from torch import nn

import steppe
from steppe import Method, SteppeError
from steppe.core.step_context import Epoch, StepContext
from steppe.coupling.reparam.reparam import Reparam

X = torch.tensor([0.0, 1e-12, -3e-4, 0.02, -0.7, 1.0, -40.0, 3e4])


@pytest.mark.parametrize("beta", [1e-3, 1.0, 50.0])
def test_sign_flip_init(beta):
    m, w = Reparam(beta=beta).split(X.double())
    torch.testing.assert_close(m * w, X.double(), atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(m**2 - w**2, torch.full_like(m, beta), atol=1e-6, rtol=1e-6)
    assert (m > w.abs()).all()


def test_sign_flip_init_in_float32():
    x = X[:-1]
    m, w = Reparam().split(x)
    torch.testing.assert_close(m * w, x, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close((m - w) * (m + w), torch.ones_like(x), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("given", [{"init_as": "balanced"}, {"beta": 0.0}])
def test_balanced_init(given):
    m, w = Reparam(**given).split(X)
    torch.testing.assert_close(m * w, X, atol=1e-6, rtol=1e-6)
    assert torch.equal(m, w.abs())
    assert m[0] == w[0] == 0


def test_given_init():
    m, w = Reparam(init_as="given", m=2.0).split(X)
    assert torch.equal(m, torch.full_like(X, 2.0))
    torch.testing.assert_close(m * w, X)


@pytest.mark.parametrize("weight", [torch.ones(3, 4, 2, 2), torch.ones(3, 4).bfloat16()])
def test_factors_keep_layout_and_dtype(weight):
    if weight.ndim == 4:
        weight = weight.to(memory_format=torch.channels_last)
    for part in Reparam().split(weight):
        assert part.dtype == weight.dtype
        assert part.stride() == weight.stride()


def descend(coupling, x, gradient, rate, steps, alpha=lambda step: 0.0):
    """Gradient descent on f(m * w) + alpha (m^2 + w^2), written out."""
    m, w = coupling.split(x)
    path = []
    for step in range(steps):
        g, a = gradient(m * w), 2 * alpha(step)
        m, w = m - rate * (g * w + a * m), w - rate * (g * m + a * w)
        path.append((m, w))
    return path


def test_how_far_apart_the_factors_are():
    """m^2 - w^2 = beta exp(-4 integral of alpha), whatever the loss does."""
    target, rate = torch.tensor([0.5, -1.0, 0.0, 2.0], dtype=torch.float64), 1e-3
    x = torch.tensor([-0.3, 0.4, 0.1, 0.0], dtype=torch.float64)
    strength = lambda step: 0.3 * 0.999**step  # noqa: E731
    path = descend(Reparam(beta=1.0), x, lambda v: v - target, rate, 3000, strength)
    for last in (0, 500, 2999):
        m, w = path[last]
        integral = sum(strength(k) * rate for k in range(last + 1))
        expected = torch.full_like(m, math.exp(-4 * integral))
        torch.testing.assert_close(m**2 - w**2, expected, rtol=0.01, atol=0)


def test_far_apart_factors_follow_plain_gradient_descent():
    target, beta = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64), 1e4
    x = plain = torch.tensor([-0.3, 0.4, 0.0], dtype=torch.float64)
    path = descend(Reparam(beta=beta), x, lambda v: v - target, 0.1 / beta, 50)
    for m, w in path:
        plain = plain - 0.1 * (plain - target)
        torch.testing.assert_close(m * w, plain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("alpha", [0.05, 0.2])
def test_least_squares_ends_at_the_soft_threshold(alpha):
    """min (x - c)^2 / 2 + alpha (m^2 + w^2): the L1 of strength 2 alpha."""
    c = torch.tensor([0.3, -0.05, 1.0, -2.0, 0.0], dtype=torch.float64)
    start = torch.tensor([0.1, -0.1, 0.1, -0.1, 0.1], dtype=torch.float64)
    path = descend(
        Reparam(init_as="balanced"), start, lambda v: v - c, 0.05, 20_000, lambda _: alpha
    )
    m, w = path[-1]
    soft = c.sign() * (c.abs() - 2 * alpha).clamp(min=0)
    torch.testing.assert_close(m * w, soft, atol=1e-6, rtol=1e-6)


def test_signs_flip_only_where_factors_begin_apart():
    target = torch.tensor([-1.0, 1.0], dtype=torch.float64)
    x = -0.1 * target
    apart = descend(Reparam(beta=1.0), x, lambda v: v - target, 0.01, 3000)[-1]
    alike = descend(Reparam(beta=0.0), x, lambda v: v - target, 0.01, 3000)[-1]
    torch.testing.assert_close(apart[0] * apart[1], target)
    assert (alike[0] * alike[1] * target <= 0).all()


def sparsifier(steps=12, **given):
    model = nn.Linear(6, 5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.01)
    method = Method(
        budget={"name": "pooled", "sparsity": 0.6},
        coupling={"name": "reparam"} | given.pop("coupling", {}),
        **given,
    )
    return model, steppe.sparsify(model, optimizer, method, steps, steps_per_epoch=3)


def loss(model):
    return (model(torch.eye(6)) - torch.arange(30.0).view(6, 5) / 30).square().mean()


def test_the_gradient_of_the_penalty():
    coupling = Reparam(alpha=0.25)
    weights = coupling.split_all({"a": torch.randn(4)})
    grads = {n: torch.zeros_like(p) for n, p in weights.items()}
    context = StepContext(
        step=0,
        total=1,
        sparsity=0.0,
        due=False,
        weights=weights,
        project=lambda w, s, within=None: {"a": torch.ones(4).bool()},
        grads=grads,
    )
    context.state = coupling.init(context)
    coupling.add_gradient(context)
    leaves = [p.clone().requires_grad_() for p in weights.values()]
    (0.25 * sum(p.square().sum() for p in leaves)).backward()
    for gradient, leaf in zip(grads.values(), leaves, strict=True):
        torch.testing.assert_close(gradient, leaf.grad)


def test_what_is_cut_stays_zero_in_both_factors():
    model, s = sparsifier(schedule={"name": "one_shot", "at": 0.5})
    for step in range(12):
        s.step(lambda: loss(model))
        if step >= 6:
            gone = ~s.state["mask"]["weight"]
            assert gone.sum() == 18
            for part in model.parametrizations.weight.parameters():
                assert not part[gone].any()
    assert s.finish().zeros == 18


def test_sam_leaves_cut_factors_alone():
    model, s = sparsifier(
        schedule={"name": "one_shot", "at": 0.0}, perturb={"name": "sam", "rho": 0.5}
    )
    seen = []
    for _ in range(3):
        s.step(lambda: (seen.append(model.weight.detach().clone()), loss(model))[1])
    gone = ~s.state["mask"]["weight"]
    assert len(seen) == 6
    assert all(not w[gone].any() and not torch.equal(w, seen[0]) for w in seen[1:])


def test_a_new_training_splits_the_product_again():
    model, s = sparsifier(
        schedule={"name": "cyclic", "cycles": 2, "rewind": "rate"},
        coupling={"alpha": 0.3, "decay": "geometric", "rate": 0.5},
    )
    for _ in range(6):
        s.step(lambda: loss(model))
    m, w = model.parametrizations.weight.parameters()
    kept = s.state["mask"]["weight"]
    torch.testing.assert_close((m**2 - w**2)[kept], torch.ones(12), atol=1e-5, rtol=1e-5)
    assert not m[~kept].any()
    assert float(s.state["strength"]["alpha"]) == pytest.approx(0.3)
    s.step(lambda: loss(model))


def test_the_strength_follows_its_curve():
    model, s = sparsifier(coupling={"alpha": 0.4, "decay": "harmonic"})
    seen = []
    for _ in range(12):
        s.step(lambda: loss(model))
        seen.append(float(s.state["strength"]["alpha"]))
    expected = [0.4] * 2 + [0.4 / 2] * 3 + [0.4 / 3] * 3 + [0.4 / 4] * 3 + [0.4 / 5]
    assert seen == pytest.approx(expected)


def test_the_controller_sees_the_training_accuracy():
    model, s = sparsifier(coupling={"alpha": 0.4, "decay": "controlled", "delta": 2.0})
    given = iter([0.1, 0.2, 0.3] + [0.4] * 3 + [0.1] * 3 + [0.9] * 3)
    seen = []
    for _ in range(12):
        s.step(lambda: (loss(model), torch.tensor(next(given))))
        seen.append(float(s.state["strength"]["alpha"]))
    # 0.2 and 0.4 rise; 0.1 falls; 0.9 rises, but half of the epochs are over
    assert seen[2::3] == pytest.approx([0.8, 1.6, 0.8, 0.4])
    with pytest.raises(SteppeError, match=r"training accuracy.*argmax"):
        sparsifier(coupling={"decay": "controlled"})[1].step(lambda: loss(model))


def test_epochs_must_be_known():
    model = nn.Linear(6, 5)
    method = steppe.methods.pilot(sparsity=0.5)
    with pytest.raises(SteppeError, match="steps_per_epoch"):
        steppe.sparsify(model, torch.optim.SGD(model.parameters(), lr=0.1), method, 4)


@pytest.mark.parametrize(
    "given", [{"init_as": "zeros"}, {"beta": -1.0}, {"m": 0.0}, {"alpha": -1.0}, {"decay": "often"}]
)
def test_wrong_options(given):
    with pytest.raises(SteppeError):
        Reparam(**given)


def test_half_of_the_epochs_counts_from_one():
    strength = Reparam(decay="controlled", delta=2.0)._strength
    rises = [
        strength.after(1.0, 0.0, Epoch(k, 5, 0.5), lambda: torch.tensor(9.0)) for k in range(1, 6)
    ]
    assert rises == [2.0, 2.0, 0.5, 0.5, 0.5]
