"""Sharpness and Hessian on quadratics whose answers are known."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.optimize import brentq
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.robustness import ball_sharpness, hessian_top, one_step_sharpness


class Quadratic(nn.Module):
    """0.5 w'Aw + b'w, whatever the input."""

    def __init__(self, a: np.ndarray, b: np.ndarray, w: np.ndarray | None = None) -> None:
        super().__init__()
        self.w = nn.Parameter(torch.tensor(np.zeros(len(b)) if w is None else w))
        self.a, self.b = torch.tensor(a), torch.tensor(b)

    def forward(self, x: Tensor) -> Tensor:
        return (0.5 * self.w @ self.a @ self.w + self.b @ self.w).expand(len(x))


def mean(out: Tensor, y: Tensor) -> Tensor:
    return out.mean()


BATCHES = [(torch.zeros(2, 1), torch.zeros(2)), (torch.zeros(1, 1), torch.zeros(1))]


def problem(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.standard_normal((n, n)))
    return q @ np.diag(random.uniform(-1, 4, n)) @ q.T, random.standard_normal(n)


def trust_region(a: np.ndarray, b: np.ndarray, rho: float) -> float:
    """max 0.5 e'Ae + b'e over ||e|| <= rho, from the secular equation."""
    values, vectors = np.linalg.eigh(-a)
    c = vectors.T @ -b

    def length(mu: float) -> float:
        return float(np.sqrt(((c / (values + mu)) ** 2).sum()))

    low = max(0.0, -values[0]) + 1e-12
    mu = (
        0.0
        if values[0] > 0 and length(0.0) <= rho
        else brentq(lambda m: length(m) - rho, low, 1e6, xtol=1e-14)
    )
    e = vectors @ (-c / (values + mu))
    return float(0.5 * e @ a @ e + b @ e)


def batch_norm_net(seed: int = 0) -> tuple[nn.Module, list[tuple[Tensor, Tensor]]]:
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Dropout(0.5), nn.Linear(8, 3)
    )
    x, y = torch.randn(40, 6), torch.randint(0, 3, (40,))
    net.train()
    net(x)
    return net, [(x[:30], y[:30]), (x[30:], y[30:])]


@pytest.mark.parametrize("n", [3, 60])
@pytest.mark.parametrize("k", [1, 3])
def test_eigenvalues_of_a_quadratic(n: int, k: int) -> None:
    a, b = problem(n, 0)
    top = hessian_top(Quadratic(a, b), mean, BATCHES, k=k, tolerance=1e-6)
    assert top.converged
    np.testing.assert_allclose(top.eigenvalues, np.linalg.eigvalsh(a)[::-1][:k], rtol=1e-5)


def test_the_largest_eigenvalue_is_the_algebraic_one() -> None:
    values = np.linspace(-9.0, 2.0, 40)
    top = hessian_top(Quadratic(np.diag(values), np.zeros(40)), mean, BATCHES)
    assert top.eigenvalue == pytest.approx(2.0, rel=1e-3)


def test_a_network_against_its_full_hessian() -> None:
    net, batches = batch_norm_net()
    loss = nn.CrossEntropyLoss()
    top = hessian_top(net, loss, batches, tolerance=1e-5)
    x, y = (torch.cat(part) for part in zip(*batches, strict=True))
    net.eval()
    named = dict(net.named_parameters())
    sizes = [p.numel() for p in named.values()]

    def flat_loss(vector: Tensor) -> Tensor:
        parts = zip(named.items(), vector.split(sizes), strict=True)
        weights = {name: v.view_as(p) for (name, p), v in parts}
        return loss(torch.func.functional_call(net, weights, (x,)), y)

    flat = torch.cat([p.detach().reshape(-1) for p in named.values()])
    hessian = torch.autograd.functional.hessian(flat_loss, flat)
    assert top.eigenvalue == pytest.approx(float(torch.linalg.eigvalsh(hessian)[-1]), rel=1e-3)


@pytest.mark.parametrize("n", [8, 60])
def test_masks_give_the_principal_submatrix(n: int) -> None:
    a, b = problem(n, 1)
    keep = np.random.default_rng(2).random(n) < 0.6
    model, masks = Quadratic(a, b), {"w": torch.tensor(keep)}
    top = hessian_top(model, mean, BATCHES, masks=masks, tolerance=1e-6)
    sub = a[np.ix_(keep, keep)]
    assert top.eigenvalue == pytest.approx(float(np.linalg.eigvalsh(sub)[-1]), rel=1e-5)
    sharp = ball_sharpness(model, mean, BATCHES, rho=0.7, steps=100, masks=masks)
    assert sharp == pytest.approx(trust_region(sub, b[keep], 0.7), rel=1e-3)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("rho", [0.05, 1.0, 5.0])
def test_sharpness_is_the_trust_region_solution(seed: int, rho: float) -> None:
    a, b = problem(12, seed)
    w = np.random.default_rng(seed + 9).standard_normal(12)
    model = Quadratic(a, b, w)
    exact = trust_region(a, a @ w + b, rho)
    sharpness = ball_sharpness(model, mean, BATCHES, rho=rho, steps=40, restarts=3)
    assert sharpness <= exact * (1 + 1e-9)
    assert sharpness == pytest.approx(exact, rel=2e-2)
    assert sharpness >= one_step_sharpness(model, mean, BATCHES, rho=rho)


def test_sharpness_against_brute_force_in_the_plane() -> None:
    a, b = np.array([[2.0, 0.5], [0.5, -1.0]]), np.array([0.3, -0.2])
    angle, radius = np.meshgrid(np.linspace(0, 2 * np.pi, 2001), np.linspace(0, 1.5, 301))
    e = np.stack([radius * np.cos(angle), radius * np.sin(angle)]).reshape(2, -1)
    brute = float((0.5 * (e * (a @ e)).sum(0) + b @ e).max())
    assert trust_region(a, b, 1.5) == pytest.approx(brute, abs=1e-4)
    sharpness = ball_sharpness(Quadratic(a, b), mean, BATCHES, rho=1.5, steps=60, restarts=2)
    assert sharpness == pytest.approx(brute, abs=1e-3)


def test_concave_and_stationary() -> None:
    bowl = Quadratic(-np.eye(3), np.zeros(3))
    assert ball_sharpness(bowl, mean, BATCHES, rho=1.0) == 0.0
    steep = Quadratic(-np.eye(3), np.array([0.1, 0.0, 0.0]))
    # the maximum, at eps = (0.1, 0, 0), lies inside; one step of length 1 overshoots
    assert one_step_sharpness(steep, mean, BATCHES, rho=1.0) < 0.0
    sharpness = ball_sharpness(steep, mean, BATCHES, rho=1.0, steps=100)
    assert sharpness == pytest.approx(0.005, rel=0.05)
    saddle = Quadratic(np.diag([3.0, 1.0, -1.0]), np.zeros(3))
    assert ball_sharpness(saddle, mean, BATCHES, rho=2.0) == pytest.approx(6.0, rel=1e-3)


def test_short_batches_weigh_by_their_examples() -> None:
    model = nn.Linear(1, 1, bias=False)
    x = torch.tensor([[1.0], [2.0], [3.0]])
    loss = nn.MSELoss()
    whole = hessian_top(model, loss, [(x, x)]).eigenvalue
    split = hessian_top(model, loss, [(x[:2], x[:2]), (x[2:], x[2:])]).eigenvalue
    assert split == pytest.approx(whole) == pytest.approx(2 * 14 / 3)


def test_everything_is_left_as_it_was() -> None:
    net, batches = batch_norm_net()
    net[1].eval()  # a layer that the user froze
    for p in net.parameters():
        p.grad = torch.ones_like(p)
    with torch.no_grad():
        net[0].weight[0, 0] = -0.0
    before = {k: v.clone() for k, v in net.state_dict().items()}
    modes = [m.training for m in net.modules()]
    loss = nn.CrossEntropyLoss()
    results = []
    for _ in range(2):
        results.append(
            (
                hessian_top(net, loss, batches, k=2),
                ball_sharpness(net, loss, batches, rho=0.1, steps=3),
                one_step_sharpness(net, loss, batches, rho=0.1),
            )
        )
    assert results[0] == results[1]
    for name, value in net.state_dict().items():
        assert value.numpy().tobytes() == before[name].numpy().tobytes(), name
    assert modes == [m.training for m in net.modules()]
    assert all(bool((p.grad == 1).all()) for p in net.parameters())


def test_batch_norm_and_dropout_are_in_eval_mode() -> None:
    net, batches = batch_norm_net()
    loss = nn.CrossEntropyLoss()
    trained = ball_sharpness(net.train(), loss, batches, rho=0.1, steps=3)
    assert trained == ball_sharpness(net.eval(), loss, batches, rho=0.1, steps=3)


def test_restored_when_it_fails() -> None:
    net, batches = batch_norm_net()
    before = [p.detach().clone() for p in net.parameters()]
    calls = 0

    def breaks(out: Tensor, y: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        return nn.functional.cross_entropy(out, y) * (float("nan") if calls > 4 else 1.0)

    with pytest.raises(SteppeError, match="finite"):
        ball_sharpness(net, breaks, batches, rho=0.1)
    assert all(torch.equal(p, w) for p, w in zip(net.parameters(), before, strict=True))


def test_no_convergence_is_one_clear_line_or_a_flag() -> None:
    a, b = problem(200, 3)
    with pytest.raises(SteppeError, match="after 5 products") as error:
        hessian_top(Quadratic(a, b), mean, BATCHES, max_products=5, tolerance=1e-6)
    assert "\n" not in str(error.value)
    top = hessian_top(Quadratic(a, b), mean, BATCHES, max_products=5, strict=False)
    assert not top.converged
    assert top.eigenvalue <= np.linalg.eigvalsh(a)[-1]


def test_nan_and_linear_losses() -> None:
    a, b = problem(60, 4)
    w = np.full(60, np.nan)
    cubic = lambda out, y: out.mean() ** 2  # noqa: E731
    with pytest.raises(SteppeError, match="finite"):
        hessian_top(Quadratic(a, b, w), cubic, BATCHES)
    with pytest.raises(SteppeError, match="finite"):
        ball_sharpness(Quadratic(a, b, w), mean, BATCHES, rho=0.1)
    for n in (3, 60):
        flat = hessian_top(Quadratic(np.zeros((n, n)), np.ones(n)), mean, BATCHES)
        assert flat.eigenvalue == 0.0


def test_what_cannot_work_says_so() -> None:
    model = Quadratic(np.eye(2), np.zeros(2))
    with pytest.raises(SteppeError, match="rho"):
        ball_sharpness(model, mean, BATCHES, rho=0.0)
    with pytest.raises(SteppeError, match="batch"):
        hessian_top(model, mean, [])
    with pytest.raises(SteppeError, match="unknown parameter"):
        hessian_top(model, mean, BATCHES, masks={"v": torch.ones(2, dtype=torch.bool)})
    with pytest.raises(SteppeError, match="shaped"):
        hessian_top(model, mean, BATCHES, masks={"w": torch.ones(3, dtype=torch.bool)})
    with pytest.raises(SteppeError, match="may move"):
        hessian_top(model, mean, BATCHES, masks={"w": torch.zeros(2, dtype=torch.bool)})


def test_attention_has_second_derivatives() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    x, y = torch.randn(3, 4, 8), torch.randn(3, 4, 8)
    assert hessian_top(layer, nn.MSELoss(), [(x, y)], tolerance=1e-2).eigenvalue > 0


def test_adaptive_sharpness_is_that_of_the_scaled_quadratic() -> None:
    a, b = problem(6, 4)
    w = np.random.default_rng(2).uniform(0.5, 2, 6) * np.array([1, -1, 1, -1, 1, 1])
    model = Quadratic(a, b, w)
    sharpness = ball_sharpness(
        model, mean, BATCHES, rho=0.4, steps=200, restarts=4, adaptive=True, eta=0.1
    )
    t = np.diag(np.abs(w) + 0.1)
    assert sharpness == pytest.approx(trust_region(t @ a @ t, t @ (a @ w + b), 0.4), rel=1e-3)


def test_adaptive_sharpness_does_not_change_with_the_scale_of_layers() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 5, bias=False), nn.ReLU(), nn.Linear(5, 2, bias=False))
    batches = [(torch.randn(20, 4), torch.randint(2, (20,)))]
    loss = nn.functional.cross_entropy
    ways = {"plain": {"adaptive": False}, "adaptive": {"adaptive": True}}
    before = {k: ball_sharpness(net, loss, batches, rho=0.3, **v) for k, v in ways.items()}
    with torch.no_grad():
        net[0].weight *= 10
        net[2].weight /= 10
    after = {k: ball_sharpness(net, loss, batches, rho=0.3, **v) for k, v in ways.items()}
    assert after["adaptive"] == pytest.approx(before["adaptive"], rel=1e-3)
    assert abs(after["plain"] / before["plain"] - 1) > 0.2
