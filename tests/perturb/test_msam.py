"""Momentum-SAM: a step's one gradient is taken where the momentum leads."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError, methods
from steppe.perturb.msam import Msam

X = torch.randn(40, 8, generator=torch.Generator().manual_seed(1)).double()
Y = torch.arange(40) % 4
STEPS = 7


def network(norm=False):
    torch.manual_seed(0)
    layers = [nn.Linear(8, 30), nn.BatchNorm1d(30) if norm else nn.Identity(), nn.ReLU()]
    return nn.Sequential(*layers, nn.Linear(30, 4)).double()


def sgd(params, **options):
    return torch.optim.SGD(params, **({"lr": 0.1, "momentum": 0.9} | options))


def batch(step):
    rows = torch.randperm(40, generator=torch.Generator().manual_seed(step))[:16]
    return X[rows], Y[rows]


def trained(perturb, make=sgd, steps=STEPS, method=None, **given):
    model = network()
    method = method or methods.dense()
    optimizer = make(model.parameters())
    s = steppe.sparsify(model, optimizer, method.replace(perturb=perturb), STEPS, **given)
    for step in range(steps):
        x, y = batch(step)
        s.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    return model, s


def transcribed(rho, adam=False):
    """Algorithm 1, which keeps the perturbed weights, from zero momentum."""
    model = network()
    params = list(model.parameters())
    v = [torch.zeros_like(p) for p in params]
    second = [torch.zeros_like(p) for p in params]
    ahead = 0.0
    with torch.no_grad():
        for step in range(STEPS):
            x, y = batch(step)
            with torch.enable_grad():
                grads = torch.autograd.grad(F.cross_entropy(model(x), y), params)
            for p, g, m, s in zip(params, grads, v, second, strict=True):
                p.add_(ahead * m)  # back to where the weights are
                if adam:
                    m.mul_(0.9).add_(0.1 * g)
                    s.mul_(0.999).add_(0.001 * g * g)
                    root = (s / (1 - 0.999 ** (step + 1))).sqrt() + 1e-8
                    p.sub_(0.01 * m / (1 - 0.9 ** (step + 1)) / root)
                else:
                    m.mul_(0.9).add_(g)
                    p.sub_(0.1 * m)
            length = torch.stack([m.norm() for m in v]).norm()
            ahead = rho / (length + 1e-12)
            for p, m in zip(params, v, strict=True):
                p.sub_(ahead * m)
        for p, m in zip(params, v, strict=True):
            p.add_(ahead * m)
    return model


def gap(a, b):
    return max(
        float((p - q).detach().abs().max())
        for p, q in zip(a.parameters(), b.parameters(), strict=True)
    )


@pytest.mark.parametrize("rho", [0.05, 3.0])
def test_algorithm_1(rho):
    assert gap(trained(Msam(rho=rho))[0], transcribed(rho)) < 1e-7
    assert gap(transcribed(rho), transcribed(0.0)) > 1e-3


def test_with_adam_it_goes_along_the_first_moment():
    def adam(params):
        return torch.optim.Adam(params, lr=0.01)

    assert gap(trained(Msam(rho=0.5), adam)[0], transcribed(0.5, adam=True)) < 1e-7


def test_one_gradient_a_step_and_no_trace():
    model = network(norm=True)
    s = steppe.sparsify(
        model, sgd(model.parameters()), methods.dense().replace(perturb=Msam(rho=0.7)), STEPS
    )
    places = []

    def closure():
        places.append([p.detach().clone() for p in model.parameters()])
        return F.cross_entropy(model(X), Y)

    for step in range(4):
        before = [p.detach().clone() for p in model.parameters()]
        s.step(closure)
        moved = torch.cat([(a - b).flatten() for a, b in zip(places[-1], before, strict=True)])
        assert len(places) == step + 1
        assert float(moved.norm()) == pytest.approx(0.7 if step else 0.0, abs=1e-6)
    assert int(model[1].num_batches_tracked) == 4


def test_micro_batches_and_a_scaler_change_nothing():
    def run(parts, scaler=None):
        model = network()
        method = methods.dense().replace(perturb="msam")
        s = steppe.sparsify(model, sgd(model.parameters()), method, STEPS, scaler=scaler)
        for step in range(STEPS):
            x, y = batch(step)
            s.step(
                *[
                    lambda x=x[i::parts], y=y[i::parts]: F.cross_entropy(model(x), y)
                    for i in range(parts)
                ]
            )
        return model

    assert gap(run(1), run(4)) < 1e-10
    assert gap(run(1), run(1, torch.amp.GradScaler("cpu", init_scale=2.0**10))) < 1e-10


def test_resumes_bit_for_bit():
    whole, _ = trained("msam")
    half, s = trained("msam", steps=4)
    model = network()
    model.load_state_dict(half.state_dict())
    again = steppe.sparsify(model, sgd(model.parameters()), s.method, STEPS)
    again.load_state_dict(copy.deepcopy(s.state_dict()))
    for step in range(4, STEPS):
        x, y = batch(step)
        again.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    assert gap(model, whole) == 0.0


def test_what_is_masked_is_not_moved_though_it_has_momentum():
    method = methods.magnitude(sparsity=0.95, at=0.0, budget="uniform")
    seen = []
    model, s = trained(Msam(rho=0.3), steps=3, method=method)
    weights = {n: w.clone() for n, w in s.weights.items()}
    biases = {n: p.detach().clone() for n, p in model.named_parameters() if "bias" in n}
    buffer = s.optimizer.state[model[0].weight]["momentum_buffer"]
    assert buffer[weights["0.weight"] == 0].any()

    def closure():
        seen.append({n: p.detach().clone() for n, p in model.named_parameters()})
        return F.cross_entropy(model(X), Y)

    s.step(closure)
    eps = {n: seen[0][n] - w for n, w in (weights | biases).items()}
    assert all(not eps[n][w == 0].any() for n, w in weights.items())
    squares = sum(float(e.square().sum()) for e in eps.values())
    assert squares**0.5 == pytest.approx(0.3, rel=1e-6)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda p: sgd(p, momentum=0.0), "SGD with momentum 0"),
        (torch.optim.Adagrad, "Adagrad"),
        (torch.optim.RMSprop, "RMSprop with momentum 0"),
    ],
    ids=["SGD", "Adagrad", "RMSprop"],
)
@pytest.mark.parametrize("phased", [False, True])
def test_an_optimizer_without_momentum_is_refused(make, said, phased):
    perturb = {"name": "phased", "phases": [[0.5, "sam"], [1.0, "msam"]]} if phased else "msam"
    with pytest.raises(SteppeError, match=f"msam goes along the optimizer's momentum; got {said}"):
        trained(perturb, make)
    trained({"name": "msam", "rho": 0.0}, make)  # moves nothing


class Around(torch.optim.Optimizer):
    """Steps another optimiser, which holds the momentum, as ZeroRedundancyOptimizer does."""

    def __init__(self, params):
        super().__init__(params, {"momentum": 0.9})
        self.base = torch.optim.SGD(self.param_groups, lr=0.1)

    def step(self, closure=None):
        self.base.step()


class Sharing(Around):
    """Shows the state of the one inside as its own."""

    def __init__(self, params):
        super().__init__(params)
        self.state = self.base.state


class Hiding(torch.optim.SGD):
    """Keeps its momentum where nobody looks."""

    def step(self, closure=None):
        super().step()
        self.hidden, self.state = self.state, type(self.state)(dict)


def test_a_momentum_that_is_not_seen_is_no_momentum():
    with pytest.raises(SteppeError, match="Around, whose momentum lies in the SGD"):
        trained("msam", Around)
    with pytest.raises(SteppeError, match="Hiding, which remembers nothing of a step"):
        trained("msam", lambda p: Hiding(p, lr=0.1, momentum=0.9))
    alike = [trained("msam", make)[0] for make in (Sharing, sgd)]
    assert torch.equal(*(m[0].weight for m in alike))


def cleared(optimizer):
    optimizer.state.clear()


def loaded_without_entries(optimizer):
    optimizer.load_state_dict(copy.deepcopy(optimizer.state_dict()) | {"state": {}})


@pytest.mark.parametrize("restart", [cleared, loaded_without_entries])
def test_a_momentum_that_begins_anew_is_gone_along_from_its_next_step(restart):
    model, s = trained("msam", steps=3)
    restart(s.optimizer)
    plain, copied = copy.deepcopy(model), []

    def closure(net=model):
        copied.append(net[0].weight.detach().clone())
        return F.cross_entropy(net(X), Y)

    s.step(closure)
    assert torch.equal(copied[0], plain[0].weight)  # no momentum leads anywhere
    before = model[0].weight.detach().clone()
    s.step(closure)
    assert not torch.equal(copied[1], before)


def test_before_or_after_another_in_a_run():
    perturb = {"name": "phased", "phases": [[0.5, "sam"], [1.0, {"name": "msam", "rho": 0.3}]]}
    model = network()
    s = steppe.sparsify(model, sgd(model.parameters()), methods.dense().replace(perturb=perturb), 4)
    calls = []

    def closure():
        calls.append(s.steps_done)
        return F.cross_entropy(model(X), Y)

    for _ in range(4):
        s.step(closure)
    assert calls == [0, 0, 1, 1, 2, 3]


def test_an_optimizer_that_remembers_nothing_of_the_kind_is_refused_when_it_is_seen():
    class Other(torch.optim.AdamW):
        """Says that it has betas, and keeps something else."""

        def step(self, closure=None):
            super().step(closure)
            for state in self.state.values():
                state["z"] = state.pop("exp_avg", None)

    with pytest.raises(SteppeError, match="got Other, which remembers step, exp_avg_sq, z"):
        trained("msam", Other, steps=2)
