"""ELSA beside a plain transcription of its rule, with Adam and clipping by hand."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import steppe
from looped import looped
from steppe import methods

STEPS, INTERVAL, SPARSITY, CLIP = 200, 16, 0.75, 0.05
LR, BETAS, EPS = 5e-3, (0.9, 0.95), 1e-8
TOLERANCE = 1e-6


@pytest.fixture
def float64() -> Iterator[None]:
    """Everything in this precision, in which no tie decides."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def network() -> nn.Sequential:
    """Embedding and head stay dense, as in a language model."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(17, 12),
        nn.Linear(12, 24),
        nn.LayerNorm(24),
        nn.GELU(),
        nn.Linear(24, 12, bias=False),
        nn.Linear(12, 17),
    )


PRUNED = ("1.weight", "4.weight")


def loss_of(model: nn.Module, step: int) -> Tensor:
    tokens = torch.randint(17, (8, 6), generator=torch.Generator().manual_seed(step))
    return F.cross_entropy(model(tokens).flatten(0, 1), ((3 * tokens + 5) % 17).flatten())


class Elsa:
    """x <- adam(clip(g) + lam (x - z + u)); after t % K = 0: z, u, then lam and u's scale."""

    def __init__(self, aware: bool, start: float, end: float, shape: str) -> None:
        self.model, self.aware = network(), aware
        self.start, self.end, self.shape = start, end, shape
        self.x = dict(self.model.named_parameters())
        self.m = {n: torch.zeros_like(p) for n, p in self.x.items()}
        self.v = {n: torch.zeros_like(p) for n, p in self.x.items()}
        self.z = {n: self.largest(n, self.x[n].detach(), False) for n in PRUNED}
        self.u = {n: torch.zeros_like(self.z[n]) for n in PRUNED}
        self.lam = self.scheduled(0)
        self.clipped = 0

    def scheduled(self, t: int) -> float:
        share = {"constant": 1.0, "cosine": (1 - math.cos(math.pi * t / STEPS)) / 2}[self.shape]
        return self.start + (self.end - self.start) * share

    def largest(self, name: str, value: Tensor, aware: bool) -> Tensor:
        keep = value.numel() - round(SPARSITY * value.numel())
        rank = value**2 * (self.v[name] if aware else 1.0)
        index = rank.flatten().topk(keep).indices
        mask = torch.zeros(value.numel(), dtype=torch.bool)
        mask[index] = True
        return value * mask.view_as(value)

    def step(self, t: int) -> None:
        grads = torch.autograd.grad(loss_of(self.model, t), list(self.x.values()))
        norm = math.sqrt(sum(float((g**2).sum()) for g in grads))
        factor = min(1.0, CLIP / (norm + 1e-6))
        self.clipped += factor < 1.0
        with torch.no_grad():
            for (n, x), g in zip(self.x.items(), grads, strict=True):
                g = g * factor
                if n in PRUNED:
                    g = g + self.lam * (x - self.z[n] + self.u[n])
                self.m[n] = BETAS[0] * self.m[n] + (1 - BETAS[0]) * g
                self.v[n] = BETAS[1] * self.v[n] + (1 - BETAS[1]) * g**2
                first = self.m[n] / (1 - BETAS[0] ** (t + 1))
                second = self.v[n] / (1 - BETAS[1] ** (t + 1))
                x -= LR * (1 - t / STEPS) * first / (second.sqrt() + EPS)
            if t % INTERVAL == 0:
                self.renew(t)

    def renew(self, t: int) -> None:
        for n in PRUNED:
            self.z[n] = self.largest(n, self.x[n] + self.u[n], self.aware)
            self.u[n] = self.u[n] + self.x[n] - self.z[n]
        before, self.lam = self.lam, self.scheduled(t)
        if before != self.lam:
            for n in PRUNED:
                self.u[n] = self.u[n] * (before / self.lam)

    def finish(self) -> None:
        with torch.no_grad():
            for n in PRUNED:
                self.x[n].copy_(self.largest(n, self.x[n], self.aware))


def ours(method: steppe.Method) -> tuple[nn.Module, steppe.Sparsifier, Any]:
    model = network()
    optimizer = torch.optim.Adam(model.parameters(), lr=LR, betas=BETAS, eps=EPS)
    sparsifier = steppe.sparsify(
        model, optimizer, method, STEPS, include=PRUNED, clip_grad_norm=CLIP
    )

    def step(t: int) -> None:
        for group in optimizer.param_groups:
            group["lr"] = LR * (1 - t / STEPS)
        sparsifier.step(lambda: loss_of(model, t))

    return model, sparsifier, step


def apart(model: nn.Module, plain: Elsa) -> float:
    return max(float((p - plain.x[n]).abs().max()) for n, p in model.named_parameters())


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("score", ["magnitude", "adam_second_moment"])
@looped(
    penalty=[
        {"penalty": 0.03},
        {"penalty": 0.03, "penalty_schedule": "cosine"},
        {"penalty": 0.03, "penalty_schedule": "cosine", "penalty_start": 0.003},
    ]
)
def test_follows_the_published_rule(penalty: dict[str, Any], score: str) -> None:
    method = methods.elsa(sparsity=SPARSITY, interval=INTERVAL, score=score, **penalty)
    model, sparsifier, step = ours(method)
    shape = penalty.get("penalty_schedule", "constant")
    start = penalty.get("penalty_start", 0.0)
    plain = Elsa(score != "magnitude", start, penalty["penalty"], shape)
    for t in range(STEPS):
        step(t)
        plain.step(t)
        assert apart(model, plain) < TOLERANCE, t
        for n in PRUNED if t % INTERVAL < 2 else ():
            assert float((sparsifier.state["z"][n] - plain.z[n]).abs().max()) < TOLERANCE, t
            assert float((sparsifier.state["u"][n] - plain.u[n]).abs().max()) < TOLERANCE, t
    assert 0 < plain.clipped
    sparsifier.finish()
    plain.finish()
    assert apart(model, plain) < TOLERANCE


@pytest.mark.usefixtures("float64")
def test_what_the_parts_of_the_rule_change_shows() -> None:
    """Else agreement says nothing."""
    cosine = {"penalty": 0.03, "penalty_schedule": "cosine", "penalty_start": 0.003}
    base = methods.elsa(sparsity=SPARSITY, interval=INTERVAL, **cosine)
    coupling = base.coupling.to_dict()
    others = [
        base.replace(coupling=coupling | {"held": False}),
        base.replace(coupling=coupling | {"update_first": False}),
        base.replace(coupling=coupling | {"penalty": "auto", "held": False, "start": 0.0}),
    ]
    ends = []
    for method in (base, *others):
        model, sparsifier, step = ours(method)
        for t in range(STEPS):
            step(t)
        assert sparsifier.finish().sparsity == SPARSITY
        ends.append(nn.utils.parameters_to_vector(model.parameters()).detach())
    assert all(float((end - ends[0]).abs().max()) > 1e-3 for end in ends[1:])


def test_each_tensor_has_its_zeros_and_the_rest_none() -> None:
    model, sparsifier, step = ours(methods.elsa(sparsity=SPARSITY, penalty="auto"))
    for t in range(STEPS):
        step(t)
    sparsifier.finish()
    for name, p in model.named_parameters():
        wanted = round(SPARSITY * p.numel()) if name in PRUNED else 0
        assert int((p == 0).sum()) == wanted, name
