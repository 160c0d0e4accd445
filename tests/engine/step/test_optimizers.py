"""One or several optimisers: cleared, stepped, saved and resumed together."""

import copy

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError, methods
from steppe.engine.step.optimizers import Optimizers

X = torch.randn(32, 16, generator=torch.Generator().manual_seed(1))
Y = torch.arange(32) % 4
METHODS = {
    "dense": methods.dense(),
    "gmp": methods.gmp(sparsity=0.5, every=1),
    "safe": methods.safe(sparsity=0.5, rho=0.05, penalty=0.1, interval=2),
    "safe_plus": methods.safe_plus(sparsity=0.5, penalty=0.1, interval=2),
    "lth": methods.lth(sparsity=0.5, cycles=2),
    "pilot": methods.pilot(sparsity=0.5, decay="constant"),
    "lasso": methods.lasso(sparsity=0.5),
    "soft_threshold": methods.soft_threshold(sparsity=0.5),
}


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 8), nn.Dropout(0.2), nn.ReLU(), nn.Linear(8, 4))


def pair(model, **options):
    """Matrices in one optimiser, all else in the other; alike, so that one could do it all."""
    parts = (
        [p for p in model.parameters() if p.ndim > 1],
        [p for p in model.parameters() if p.ndim < 2],
    )
    return [torch.optim.SGD(p, **({"lr": 0.1, "momentum": 0.9} | options)) for p in parts]


def loss(model):
    return F.cross_entropy(model(X), Y)


def vector(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def run(method, optimizers, steps=6, **given):
    model = network()
    several = optimizers(model)
    sparsifier = steppe.sparsify(model, several, method, steps, **given)
    for _ in range(steps):
        sparsifier.step(lambda: loss(model))
    sparsifier.finish()
    return vector(model)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_two_are_as_one_of_the_same_kind(method):
    def one(model):
        return torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)

    # the norm of a perturbation is summed in another order
    torch.testing.assert_close(run(method, one), run(method, pair), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("method", METHODS.values(), ids=METHODS)
def test_two_are_resumed_bit_for_bit(method):
    def make():
        model = network()
        several = pair(model)
        sparsifier = steppe.sparsify(model, several, method, 6)
        rates = [torch.optim.lr_scheduler.ExponentialLR(o, 0.8) for o in several]
        return model, sparsifier, rates

    def go(made, steps):
        model, sparsifier, rates = made
        for _ in range(steps):
            sparsifier.step(lambda: loss(model))
            for rate in rates:
                rate.step()

    whole, first, second = make(), make(), make()
    torch.manual_seed(5)
    go(whole, 6)
    torch.manual_seed(5)
    go(first, 3)
    second[0].load_state_dict(first[0].state_dict())
    state = copy.deepcopy(first[1].state_dict())
    for rate, other in zip(second[2], first[2], strict=True):
        rate.load_state_dict(other.state_dict())
    second[1].load_state_dict(state)
    go(second, 3)
    assert torch.equal(vector(second[0]), vector(whole[0]))
    alone = steppe.sparsify(
        (model := network()), torch.optim.SGD(model.parameters(), lr=0.1), method, 6
    )
    with pytest.raises(SteppeError, match="2 in the state, 1 here"):
        alone.load_state_dict(state)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="a torch without Muon")
def test_muon_for_the_matrices():
    def both(model):
        rest = [p for p in model.parameters() if p.ndim < 2]
        matrices = [p for p in model.parameters() if p.ndim == 2]
        return [torch.optim.Muon(matrices, lr=0.01), torch.optim.AdamW(rest, lr=0.01)]

    for method in (METHODS["safe"], METHODS["gmp"], METHODS["pilot"]):
        vector_ = run(method, both, clip_grad_norm=1.0)
        assert vector_.isfinite().all()
        assert int((vector_ == 0).sum()) == 80


@pytest.mark.parametrize("name", ["gmp", "safe", "safe_plus"])
def test_a_second_optimizer_of_ones_own_gets_the_gradient_at_x(name):
    def gradient(sparse):
        model = network()
        torch.manual_seed(3)
        own, other = pair(model)
        if sparse:
            steppe.sparsify(model, own, METHODS[name], 2).step(lambda: loss(model))
        else:
            loss(model).backward()
        return [p.grad for g in other.param_groups for p in g["params"]]

    assert all(map(torch.equal, gradient(True), gradient(False)))


def test_what_lies_outside_of_the_model_is_not_counted_twice():
    model, scale, x = network()[:1], nn.Parameter(torch.ones(())), X.clone().requires_grad_()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    sparsifier = steppe.sparsify(model, optimizer, methods.dense(rho=0.2), 2)
    for _ in range(2):
        sparsifier.step(lambda: (model(x) * scale).square().mean())
    (model(x) * scale).square().mean().backward()  # adds the same once more
    torch.testing.assert_close(
        scale.grad / 3, torch.autograd.grad((model(x) * scale).square().mean(), scale)[0]
    )
    torch.testing.assert_close(
        x.grad / 3, torch.autograd.grad((model(x) * scale).square().mean(), x)[0]
    )


def test_a_parameter_in_two_optimizers_is_refused():
    model = network()
    two = [torch.optim.SGD(model.parameters(), lr=0.1) for _ in range(2)]
    with pytest.raises(SteppeError, match="in one optimizer only; got 4"):
        steppe.sparsify(model, two, METHODS["gmp"], 2)
    with pytest.raises(SteppeError, match="list where a Optimizer belongs"):
        steppe.sparsify(model, [], METHODS["gmp"], 2)


def test_one_that_overflows_leaves_the_other_alone():
    """Each looks at its own gradients; the coupling does nothing with what was not moved."""
    model = network()
    model[1].p = 0.0
    several = pair(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    sparsifier = steppe.sparsify(model, several, METHODS["lasso"], 3, scaler=scaler)
    sparsifier.step(lambda: loss(model))
    weight, bias = model[0].weight.detach().clone(), model[0].bias.detach().clone()
    handle = model[0].weight.register_hook(lambda g: g * float("inf"))
    sparsifier.step(lambda: loss(model))
    handle.remove()
    assert torch.equal(model[0].weight, weight), "shrunk without a step"
    assert not torch.equal(model[0].bias, bias)
    sparsifier.step(lambda: loss(model))
    assert not torch.equal(model[0].weight, weight)


def schedule_free(kind):
    free = pytest.importorskip("schedulefree", reason="schedulefree is not installed")
    if kind == "wrapper":
        return lambda p: free.ScheduleFreeWrapper(torch.optim.SGD(p, lr=0.5), momentum=0.9)
    return lambda p: getattr(free, f"{kind}ScheduleFree")(p, lr={"SGD": 1.0}.get(kind, 0.02))


FREE = {
    "gmp": (methods.gmp(sparsity=0.5, every=3), True),
    "iht": (methods.iht(sparsity=0.5), False),
    "safe": (methods.safe(sparsity=0.5, penalty=1.0, interval=5), False),
    "pilot": (methods.pilot(sparsity=0.5, decay="constant"), False),
    "lth": (methods.lth(sparsity=0.5, cycles=2), True),
}


def zeros(model):
    return sum(int((p == 0).sum()) for p in model.parameters() if p.ndim > 1)


@pytest.mark.parametrize("kind", ["AdamW", "SGD", "RAdam", "wrapper"])
@pytest.mark.parametrize("method", FREE)
def test_the_zeros_are_where_evaluation_looks(kind, method):
    make, (rule, masks) = schedule_free(kind), FREE[method]
    for order in ("finish, eval", "eval, finish"):
        model = network()
        optimizer = make(model.parameters())
        optimizer.train()
        sparsifier = steppe.sparsify(model, optimizer, rule, 20)
        for step in range(20):
            sparsifier.step(lambda model=model: loss(model))
            if masks and step == 18:
                before = zeros(model)
                optimizer.eval()
                assert zeros(model) == before > 0, "evaluation on the way sees no zeros"
                optimizer.train()
        if order == "eval, finish":
            optimizer.eval()
        done = sparsifier.finish()
        assert done.zeros == zeros(model) == 80
        for switch in (optimizer.eval, optimizer.train, optimizer.eval):
            switch()
            assert zeros(model) == 80, order


def test_a_schedule_free_step_in_eval_mode_is_one_line():
    model = network()
    optimizer = schedule_free("AdamW")(model.parameters())
    sparsifier = steppe.sparsify(model, optimizer, METHODS["gmp"], 3)
    with pytest.raises(SteppeError, match=r"optimizer\.train\(\)"):
        sparsifier.step(lambda: pytest.fail("the closure was called"))


def test_schedule_free_is_the_plain_loop():
    make = schedule_free("AdamW")

    def run_(ours):
        model = network()
        torch.manual_seed(3)
        optimizer = make(model.parameters())
        optimizer.train()
        sparsifier = steppe.sparsify(model, optimizer, methods.dense(), 5) if ours else None
        for _ in range(5):
            if sparsifier is None:
                optimizer.zero_grad()
                loss(model).backward()
                optimizer.step()
            else:
                sparsifier.step(lambda: loss(model))
        optimizer.eval()
        return vector(model)

    assert torch.equal(run_(True), run_(False))


class Averaged(torch.optim.SGD):
    """As the SWA wrappers of old: keeps an average, and swaps it in when told."""

    def step(self, closure=None):
        super().step(closure)
        for p in (p for g in self.param_groups for p in g["params"]):
            mean = self.state[p].setdefault("mean", p.detach().clone())
            mean.lerp_(p.detach(), 0.5)

    def swap_swa_sgd(self):
        for p in (p for g in self.param_groups for p in g["params"]):
            p.data, self.state[p]["mean"] = self.state[p]["mean"], p.data


def test_an_average_that_is_swapped_in_later_holds_the_zeros():
    model = network()
    optimizer = Averaged(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, METHODS["safe"], 5)
    for _ in range(5):
        sparsifier.step(lambda: loss(model))
    sparsifier.finish()
    optimizer.swap_swa_sgd()
    assert zeros(model) == 80


def test_accelerates_own_scaler_is_used():
    """An optimiser from ``accelerator.prepare`` under float16 scales the loss by itself."""
    from accelerate import Accelerator
    from accelerate.optimizer import AcceleratedOptimizer

    Accelerator(cpu=True)

    def run_(ours):
        model = network()
        model[1].p = 0.0
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
        inner = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        optimizer = AcceleratedOptimizer(inner, scaler=scaler)
        sparsifier = steppe.sparsify(model, optimizer, methods.dense(), 5) if ours else None
        skipped = []
        for step in range(5):
            huge = float("inf") if step == 2 else 1.0

            def closure(huge=huge):
                return loss(model) * huge

            if sparsifier is None:
                optimizer.zero_grad()
                scaler.scale(closure()).backward()
                optimizer.step()
            else:
                sparsifier.step(closure)
            skipped.append(optimizer.step_was_skipped)
        assert skipped == [False, False, True, False, False]
        return vector(model), scaler.get_scale()

    (a, one), (b, other) = run_(True), run_(False)
    assert torch.equal(a, b)
    assert one == other == 2.0**7


class Hessian(torch.optim.SGD):
    """Differentiates the gradients, as AdaHessian does."""

    def step(self, closure=None):
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        torch.autograd.grad(grads, [p for g in self.param_groups for p in g["params"]], grads)


def test_an_optimizer_with_hessians_is_one_line():
    model = network()
    sparsifier = steppe.sparsify(model, Hessian(model.parameters(), lr=0.1), METHODS["gmp"], 3)
    with pytest.raises(SteppeError, match="Hessian, which differentiates them once more"):
        sparsifier.step(lambda: loss(model))


def test_proximal_steps_only_where_a_step_was_made():
    """A weight without a gradient in this step is not shrunk."""
    model = nn.ModuleDict({"a": nn.Linear(16, 4), "b": nn.Linear(16, 4)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = methods.lasso(sparsity=0.5, alpha=1.0)
    sparsifier = steppe.sparsify(model, optimizer, method, 3)
    before = model["b"].weight.detach().clone()
    sparsifier.step(lambda: F.cross_entropy(model["a"](X), Y))
    assert torch.equal(model["b"].weight, before)
    sparsifier.step(lambda: F.cross_entropy(model["b"](X), Y))
    assert (model["b"].weight.abs() < before.abs()).float().mean() > 0.9


def test_counters_of_groups_that_were_added_begin_anew_too():
    """Parts of weights and groups of options get groups of their own after the start."""

    class Counting(torch.optim.SGD):
        """As schedule-free optimisers count: in their groups."""

        def __init__(self, params):
            super().__init__(params, lr=0.1)
            for group in self.param_groups:
                group["k"] = 0

        def train(self): ...
        def eval(self): ...

    first, later = (nn.Parameter(torch.ones(2)) for _ in range(2))
    optimizer = Counting([first])
    several = Optimizers([optimizer], None)
    optimizer.add_param_group({"params": [later], "k": 0})
    for group in optimizer.param_groups:
        group["k"] = 7
    several.reset()
    assert [group["k"] for group in optimizer.param_groups] == [0, 0]
