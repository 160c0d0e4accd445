"""Whole methods beside plain transcriptions of their published rules.

The transcriptions know nothing of the library: flat vectors, sorting, loops, momentum by hand.
200 steps with batch norm, over which parameters and running statistics stay within 1e-6: in
float64 on any machine, in float32 on most (there the order of sums shows after so many steps, so
that it is asked for 1e-5).
"""

import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import methods
from steppe.perturb.asam import Asam
from steppe.perturb.sam import Sam

STEPS, SPARSITY, LR, MOMENTUM, DECAY = 200, 0.8, 0.02, 0.9, 1e-4
INTERVAL, PENALTY, RHO = 8, 0.05, 0.1
TOLERANCE = {torch.float64: 1e-6, torch.float32: 1e-5}


@pytest.fixture(params=TOLERANCE, ids=str)
def tolerance(request):
    """Everything in this precision."""
    torch.set_default_dtype(request.param)
    yield TOLERANCE[request.param]
    torch.set_default_dtype(torch.float32)


def network():
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Conv2d(4, 6, 3),
        nn.BatchNorm2d(6),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(6, 3),
    )


def batch(step):
    generator = torch.Generator().manual_seed(1000 + step)
    y = torch.randint(3, (16,), generator=generator)
    x = torch.randn(16, 2, 5, 5, generator=generator) + 0.3 * y[:, None, None, None]
    return x.to(torch.get_default_dtype()), y


def start():
    torch.manual_seed(0)
    return network()


class Plain:
    """Momentum SGD with coupled weight decay and an optional SAM gradient, by hand."""

    def __init__(self, rho=0.0):
        self.model, self.rho = start(), rho
        self.params = [p for _, p in self.model.named_parameters()]
        self.pruned = [p for p in self.params if p.ndim > 1]  # conv and linear weights
        self.momentum = [None] * len(self.params)
        self.n = sum(p.numel() for p in self.pruned)

    def gradient(self, step):
        x, y = batch(step)
        return torch.autograd.grad(F.cross_entropy(self.model(x), y), self.params)

    def gradients(self, step):
        grads = self.gradient(step)
        if self.rho == 0.0:
            return list(grads)
        norm = torch.cat([g.reshape(-1) for g in grads]).norm() + 1e-12
        keep = [p.detach().clone() for p in self.params]
        statistics = [b.clone() for b in self.model.buffers()]
        with torch.no_grad():
            for p, g in zip(self.params, grads, strict=True):
                p.copy_(p + g * (self.rho / norm))
        grads = self.gradient(step)
        with torch.no_grad():
            for p, k in zip(self.params, keep, strict=True):
                p.copy_(k)
            for b, s in zip(self.model.buffers(), statistics, strict=True):
                b.copy_(s)
        return list(grads)

    def update(self, grads):
        with torch.no_grad():
            for i, (p, g) in enumerate(zip(self.params, grads, strict=True)):
                d = g + DECAY * p
                m = d if self.momentum[i] is None else MOMENTUM * self.momentum[i] + d
                self.momentum[i] = m.clone()
                p.copy_(p - LR * m)

    def flat(self):
        return torch.cat([p.detach().reshape(-1) for p in self.pruned])

    def write(self, flat):
        with torch.no_grad():
            offset = 0
            for p in self.pruned:
                p.copy_(flat[offset : offset + p.numel()].reshape(p.shape))
                offset += p.numel()

    def scatter(self, flat):
        """A flat vector over the pruned weights as one tensor per parameter."""
        parts, offset = [], 0
        for p in self.params:
            if p.ndim > 1:
                parts.append(flat[offset : offset + p.numel()].reshape(p.shape))
                offset += p.numel()
            else:
                parts.append(torch.zeros_like(p))
        return parts


def largest(v, sparsity):
    """P_d(v): the d largest entries stay."""
    d = v.numel() - round(sparsity * v.numel())
    index = torch.topk(v.abs(), d).indices
    z = torch.zeros_like(v)
    z[index] = v[index]
    return z


def plain_admm(rho, cosine):
    """x <- sgd(g(x + eps) + lam_t (x - z + u)); every K: z <- P(x + u), u <- u + x - z; P(x)."""
    run = Plain(rho)
    x = run.flat()
    z, u = largest(x, SPARSITY), torch.zeros_like(x)
    for t in range(STEPS):
        grads = run.gradients(t)
        lam = PENALTY * (0.5 * (1 - math.cos(math.pi * t / STEPS)) if cosine else 1.0)
        pull = run.scatter(lam * (run.flat() - z + u))
        run.update([g + p for g, p in zip(grads, pull, strict=True)])
        if t % INTERVAL == INTERVAL - 1:
            x = run.flat()
            z = largest(x + u, SPARSITY)
            u = u + x - z
    run.write(largest(run.flat(), SPARSITY))
    return run.model


def plain_gmp():
    """s_t = s_f (1 - (1 - t / n)^3) at every K-th step until n; what is zero stays zero."""
    run = Plain()
    end = STEPS * 3 // 4
    mask = torch.ones(run.n, dtype=torch.bool)
    for t in range(STEPS):
        run.update(run.gradients(t))
        run.write(run.flat() * mask)
        done = t + 1
        if done <= end and (done % INTERVAL == 0 or done == end):
            s = SPARSITY * (1 - (1 - done / end) ** 3)
            size = run.flat().abs()
            size[~mask] = -1.0
            mask = torch.ones(run.n, dtype=torch.bool)
            mask[torch.sort(size).indices[: round(s * run.n)]] = False
            run.write(run.flat() * mask)
    return run.model


def plain_iht():
    """x <- P_{d(t)}(x + update), the same cubic d, no mask kept."""
    run = Plain()
    for t in range(STEPS):
        run.update(run.gradients(t))
        s = SPARSITY * (1 - (1 - (t + 1) / STEPS) ** 3)
        run.write(largest(run.flat(), s))
    return run.model


def plain_sam():
    run = Plain(RHO)
    for t in range(STEPS):
        run.update(run.gradients(t))
    return run.model


def train(method, finish=True):
    model = start()
    optimizer = torch.optim.SGD(model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY)
    sparsifier = steppe.sparsify(model, optimizer, method, STEPS)
    for step in range(STEPS):
        x, y = batch(step)
        sparsifier.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    if finish:
        done = sparsifier.finish()
        assert done.zeros == round(method.sparsity * done.total)
    return model


def difference(a, b):
    """Largest over all parameters and running statistics."""
    a, b = a.state_dict(), b.state_dict()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


ADMM = {"sparsity": SPARSITY, "interval": INTERVAL, "penalty": PENALTY}
PAIRS = {
    "safe": (lambda: plain_admm(RHO, cosine=True), methods.safe(rho=RHO, **ADMM)),
    "admm": (lambda: plain_admm(0.0, cosine=False), methods.admm(**ADMM)),
    "gmp": (plain_gmp, methods.gmp(sparsity=SPARSITY, every=INTERVAL)),
    "iht": (plain_iht, methods.iht(sparsity=SPARSITY)),
    "sam": (plain_sam, methods.dense(rho=RHO)),
}


@pytest.mark.parametrize("name", PAIRS)
def test_follows_the_published_rule(name, tolerance):
    transcription, method = PAIRS[name]
    assert difference(train(method), transcription()) < tolerance


def test_training_moved_the_weights():
    """Else agreement says nothing."""
    model = train(methods.safe(rho=RHO, **ADMM))
    assert difference(model, start()) > 0.1
    # and the parts that differ between the methods show
    assert difference(model, train(methods.safe(rho=0.0, **ADMM))) > 1e-2
    assert difference(model, train(methods.safe(rho=RHO, **ADMM | {"penalty": 0.0}))) > 1e-2


def test_without_radius_safe_is_admm_bit_for_bit():
    safe = methods.safe(rho=0.0, **ADMM)
    assert difference(train(safe), train(methods.admm(penalty_schedule="cosine", **ADMM))) == 0.0


def test_without_penalty_safe_is_sam(tolerance):
    safe = train(methods.safe(rho=RHO, **ADMM | {"penalty": 0.0}), finish=False)
    assert difference(safe, plain_sam()) < tolerance
    assert difference(safe, train(methods.dense(rho=RHO))) == 0.0


def test_safe_plus_with_nothing_to_know_is_safe():
    method = methods.safe_plus(score="l2", rho=RHO, **ADMM)
    assert difference(train(method), train(methods.safe(rho=RHO, **ADMM))) == 0.0


def test_asam_without_a_scale_is_sam():
    """T = 1: parameters that are no weights, or |w| + eta = 1."""
    grads = [torch.randn(5, 4), torch.randn(4)]
    sam = Sam(rho=0.3).perturbation([torch.randn(5, 4), torch.randn(4)], grads, ["a", "b"])
    drawn = [torch.randn(5, 4), torch.randn(4)]
    named = Asam(rho=0.3).perturbation(drawn, grads, ["kernel", "offset"])
    ones = [w.sign() for w in drawn]
    scaled = Asam(rho=0.3, eta=0.0).perturbation(ones, grads, ["weight", "bias"])
    for a, b, c in zip(sam, named, scaled, strict=True):
        assert torch.equal(a, b)
        assert torch.equal(a, c)


def test_the_first_pass_is_not_changed_by_the_second():
    """Running statistics and gradients of a step with lr 0 are those of plain training."""
    model, plain = start(), start()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = steppe.sparsify(model, optimizer, methods.safe(rho=RHO, **ADMM), STEPS)
    for step in range(5):
        x, y = batch(step)
        sparsifier.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
        F.cross_entropy(plain(x), y)
    assert difference(model, plain) == 0.0
