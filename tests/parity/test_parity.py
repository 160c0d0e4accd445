"""Whole methods beside plain transcriptions of their published rules.

The transcriptions know nothing of the library: flat vectors, sorting, loops, momentum by hand.
200 steps with batch norm, over which parameters and running statistics stay within 1e-6 in float64.
In float32 a rounding decides which of two nearly equal weights stays, after which two runs go
their own ways; there every single step is compared, from a common state and up to such ties.
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
RUN_TOLERANCE, STEP_TOLERANCE = 1e-6, 1e-5  # float64 after 200 steps, float32 after one


@pytest.fixture
def float64():
    """Everything in this precision."""
    torch.set_default_dtype(torch.float64)
    yield
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
    """Momentum SGD with coupled weight decay and an optional SAM gradient, by hand.

    A rule adds its own flat vectors to ``memory``, under the names that the library's coupling
    gives them, and says what a step and the end are.
    """

    def __init__(self, rho=0.0):
        self.model, self.rho = start(), rho
        self.params = [p for _, p in self.model.named_parameters()]
        self.pruned = [p for p in self.params if p.ndim > 1]  # conv and linear weights
        self.momentum = [None] * len(self.params)
        self.n = sum(p.numel() for p in self.pruned)
        self.memory = {}

    def step(self, t):
        self.update(self.gradients(t))

    def finish(self):
        pass

    def whole(self):
        for t in range(STEPS):
            self.step(t)
        self.finish()
        return self.model

    def take(self, model, optimizer, sparsifier):
        """The state of a run of the library as its own."""
        self.model.load_state_dict(model.state_dict())
        buffers = [optimizer.state[p].get("momentum_buffer") for p in model.parameters()]
        self.momentum = [None if b is None else b.clone() for b in buffers]
        self.memory = {key: flat_of(sparsifier, self.model, key) for key in self.memory}

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


def flat_of(sparsifier, model, key):
    """One vector of a coupling's state over all pruned weights, in the model's order."""
    tensors = sparsifier.state[key]
    return torch.cat([tensors[n].reshape(-1) for n, p in model.named_parameters() if p.ndim > 1])


class PlainAdmm(Plain):
    """x <- sgd(g(x + eps) + lam_t (x - z + u)); every K: z <- P(x + u), u <- u + x - z; P(x)."""

    def __init__(self, rho, cosine):
        super().__init__(rho)
        self.cosine = cosine
        x = self.flat()
        self.memory = {"z": largest(x, SPARSITY), "u": torch.zeros_like(x)}

    def step(self, t):
        grads = self.gradients(t)
        z, u = self.memory["z"], self.memory["u"]
        lam = PENALTY * (0.5 * (1 - math.cos(math.pi * t / STEPS)) if self.cosine else 1.0)
        pull = self.scatter(lam * (self.flat() - z + u))
        self.update([g + p for g, p in zip(grads, pull, strict=True)])
        if t % INTERVAL == INTERVAL - 1:
            x = self.flat()
            z = largest(x + u, SPARSITY)
            self.memory = {"z": z, "u": u + x - z}

    def finish(self):
        self.write(largest(self.flat(), SPARSITY))


class PlainGmp(Plain):
    """s_t = s_f (1 - (1 - t / n)^3) at every K-th step until n; what is zero stays zero."""

    def __init__(self):
        super().__init__()
        self.memory = {"mask": torch.ones(self.n, dtype=torch.bool)}

    def step(self, t):
        self.update(self.gradients(t))
        mask = self.memory["mask"]
        self.write(self.flat() * mask)
        end = STEPS * 3 // 4
        done = t + 1
        if done <= end and (done % INTERVAL == 0 or done == end):
            s = SPARSITY * (1 - (1 - done / end) ** 3)
            size = self.flat().abs()
            size[~mask] = -1.0
            mask = torch.ones(self.n, dtype=torch.bool)
            mask[torch.sort(size).indices[: round(s * self.n)]] = False
            self.memory = {"mask": mask}
            self.write(self.flat() * mask)


class PlainIht(Plain):
    """x <- P_{d(t)}(x + update), the same cubic d, no mask kept."""

    def step(self, t):
        self.update(self.gradients(t))
        s = SPARSITY * (1 - (1 - (t + 1) / STEPS) ** 3)
        self.write(largest(self.flat(), s))


class Ours:
    """A training with the library's method, step by step."""

    def __init__(self, method):
        self.model, self.method = start(), method
        self.optimizer = torch.optim.SGD(
            self.model.parameters(), lr=LR, momentum=MOMENTUM, weight_decay=DECAY
        )
        self.sparsifier = steppe.sparsify(self.model, self.optimizer, method, STEPS)

    def step(self, t):
        x, y = batch(t)
        self.sparsifier.step(lambda: F.cross_entropy(self.model(x), y))

    def finish(self):
        done = self.sparsifier.finish()
        assert done.zeros == round(self.method.sparsity * done.total)


def train(method, finish=True):
    run = Ours(method)
    for t in range(STEPS):
        run.step(t)
    if finish:
        run.finish()
    return run.model


def difference(a, b):
    """Largest over all parameters and running statistics."""
    a, b = a.state_dict(), b.state_dict()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


ADMM = {"sparsity": SPARSITY, "interval": INTERVAL, "penalty": PENALTY}
PAIRS = {
    "safe": (lambda: PlainAdmm(RHO, cosine=True), methods.safe(rho=RHO, **ADMM)),
    "admm": (lambda: PlainAdmm(0.0, cosine=False), methods.admm(**ADMM)),
    "gmp": (PlainGmp, methods.gmp(sparsity=SPARSITY, every=INTERVAL)),
    "iht": (PlainIht, methods.iht(sparsity=SPARSITY)),
    "sam": (lambda: Plain(RHO), methods.dense(rho=RHO)),
}


@pytest.mark.usefixtures("float64")
@pytest.mark.parametrize("name", PAIRS)
def test_follows_the_published_rule(name):
    transcription, method = PAIRS[name]
    assert difference(train(method), transcription().whole()) < RUN_TOLERANCE


def assert_same_up_to_ties(ours, theirs):
    """Equal entries, but for a few nearly equal ones of which each keeps another."""
    torch.testing.assert_close(
        ours.abs().sort().values, theirs.abs().sort().values, rtol=0, atol=STEP_TOLERANCE
    )
    differ = (ours - theirs).abs() > STEP_TOLERANCE
    assert int(differ.sum()) <= 4
    assert ((ours == 0) | (theirs == 0))[differ].all()


def assert_same_step(run, plain):
    """Weights, running statistics and the coupling's vectors after one step."""
    weights = torch.cat([p.detach().reshape(-1) for p in run.model.parameters() if p.ndim > 1])
    assert_same_up_to_ties(weights, plain.flat())
    pruned = {n for n, p in run.model.named_parameters() if p.ndim > 1}
    others = plain.model.state_dict()
    for name, tensor in run.model.state_dict().items():
        if name not in pruned:
            torch.testing.assert_close(tensor, others[name], rtol=0, atol=STEP_TOLERANCE)
    vectors = {key: flat_of(run.sparsifier, run.model, key) for key in plain.memory}
    if "z" in vectors:
        assert_same_up_to_ties(vectors["z"], plain.memory["z"])
        both = [v["z"] + v["u"] for v in (vectors, plain.memory)]  # no tie decides on the sum
        torch.testing.assert_close(*both, rtol=0, atol=STEP_TOLERANCE)
    if "mask" in vectors:
        assert int((vectors["mask"] != plain.memory["mask"]).sum()) <= 4
        assert vectors["mask"].sum() == plain.memory["mask"].sum()


@pytest.mark.parametrize("name", PAIRS)
def test_every_step_in_float32_follows_the_published_rule(name):
    transcription, method = PAIRS[name]
    run, plain = Ours(method), transcription()
    for t in range(STEPS):
        if t:  # before it, both have the state that they start from
            plain.take(run.model, run.optimizer, run.sparsifier)
        run.step(t)
        plain.step(t)
        assert_same_step(run, plain)
    plain.take(run.model, run.optimizer, run.sparsifier)
    run.finish()
    plain.finish()
    assert_same_step(run, plain)


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


def test_without_penalty_safe_is_sam():
    safe = train(methods.safe(rho=RHO, **ADMM | {"penalty": 0.0}), finish=False)
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
