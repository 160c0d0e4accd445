"""The step in a user's own loop: any optimiser, precision, batch split; resume; errors."""

import copy
import inspect

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from steppe import Method, SteppeError, methods
from steppe.core.protocols import UnitBudget
from steppe.core.serialization import load_state, save_state
from steppe.coupling.reparam.parametrized import Parametrized
from steppe.perturb.asam import Asam

SGD = {"lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4}
X = torch.randn(12, 2, 4, 4, generator=torch.Generator().manual_seed(3))
Y = torch.arange(12) % 3


def network(dropout=0.0, norm=True):
    return nn.Sequential(
        nn.Conv2d(2, 4, 3),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(16, 8),
        nn.ReLU(),
        nn.Linear(8, 3),
    )


def loss(model, rows=slice(None)):
    return F.cross_entropy(model(X[rows]), Y[rows])


def train(model, sparsifier, steps, scheduler=None):
    for _ in range(steps):
        assert sparsifier.step(lambda: loss(model)).isfinite()
        if scheduler is not None:
            scheduler.step()


def example(name, **given):
    """A method with intervals short enough for a few steps."""
    known = inspect.signature(methods.METHODS[name]).parameters
    short = {"sparsity": 0.6, "interval": 2, "every": 2, "penalty": 0.1}
    short |= {"cycles": 3, "decay": "harmonic"} if name == "pilot" else {"cycles": 3}
    return methods.make(name, **{k: v for k, v in short.items() if k in known} | given)


def equal(a, b):
    a, b = a.state_dict(), b.state_dict()
    return all(torch.equal(a[key], b[key]) for key in a)


ALL = {name: example(name) for name in methods.METHODS}
# some scores and budgets are of coupled channels, see test_channel_selector.py
COUPLED = {"bn_gamma", "taylor_gate", "variance"}
TASK = {
    n: m
    for n, m in ALL.items()
    if m.objective.scope == "task"
    and m.score.name not in COUPLED
    and isinstance(m.budget, UnitBudget)
}
METHODS = TASK | {
    "safe_plus-fisher": example("safe_plus", score="fisher"),
    "gmp-taylor": example("gmp", score="taylor"),
    "magnitude-start": example("magnitude", at=0.0, score="snip"),
    "safe-asam": example("safe").replace(perturb=Asam()),
    "safe-2:4": example("safe", sparsity=None, structure="2:4"),
}
each_method = pytest.mark.parametrize("method", METHODS.values(), ids=METHODS.keys())
without_first = {"exclude": ["0"]}  # two input channels have no 2:4


def arguments(method):
    epochs = {"steps_per_epoch": 3} if method.coupling.watches else {}
    return (without_first if method.structure.name == "nm" else {}) | epochs


OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, **SGD),
    "adam": lambda p: torch.optim.Adam(p, lr=0.01),
    "adamw": lambda p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.1),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01, momentum=0.9),
    "groups": lambda p: torch.optim.SGD(
        [{"params": list(p)[:3], "lr": 0.05}, {"params": list(p)[3:]}], lr=0.1, momentum=0.9
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["safe", "safe_plus", "gmp", "iht"])
def test_any_optimizer(name, kind):
    model = network()
    params = list(model.parameters())
    sparsifier = steppe.sparsify(model, OPTIMIZERS[name](params), example(kind), 8)
    before = float(loss(model).detach())
    train(model, sparsifier, 8)
    after = float(loss(model).detach())
    done = sparsifier.finish()
    assert after < before
    assert done.zeros == round(0.6 * done.total)
    assert done.total == sum(p.numel() for p in params if p.ndim > 1)


@each_method
def test_resume_is_bit_for_bit(method, tmp_path):
    """A new model, optimiser and sparsifier, another random state: as if never stopped."""

    def make(seed):
        torch.manual_seed(seed)
        model = network(dropout=0.3)
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, method, 9, **arguments(method))
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 9)
        return model, schedule, sparsifier

    model, schedule, sparsifier = make(0)
    written = {}
    for step in range(9):
        written[step] = tmp_path / f"{step}.safetensors"
        save_state(
            written[step],
            {
                "model": model.state_dict(),
                "schedule": schedule.state_dict(),
                "sparsifier": sparsifier.state_dict(),
            },
        )
        train(model, sparsifier, 1, schedule)
    for step in (0, 1, 5, 8):
        other, other_schedule, resumed = make(1)
        state = load_state(written[step])
        other.load_state_dict(state["model"])
        other_schedule.load_state_dict(state["schedule"])
        resumed.load_state_dict(state["sparsifier"])
        assert resumed.steps_done == step
        train(other, resumed, 9 - step, other_schedule)
        assert equal(other, model), f"resumed after {step}"
        for name, held in sparsifier.state.items():
            assert all(torch.equal(resumed.state[name][k], held[k]) for k in held)
        assert resumed.finish().distance == copy.deepcopy(sparsifier).finish().distance


def test_state_of_another_method_or_length_is_refused():
    def make(method, total):
        model = network()
        return steppe.sparsify(model, torch.optim.SGD(model.parameters(), **SGD), method, total)

    state = make(example("safe"), 5).state_dict()
    with pytest.raises(SteppeError, match="method"):
        make(example("safe", rho=0.3), 5).load_state_dict(state)
    with pytest.raises(SteppeError, match="total_steps"):
        make(example("safe"), 6).load_state_dict(state)


@pytest.mark.parametrize("kind", ["safe", "safe_plus", "admm", "gmp"])
def test_micro_batches_are_the_joined_batch(kind):
    def run(split):
        torch.manual_seed(0)
        model = network(norm=False)
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, example(kind), 6)
        size = len(X) // split
        parts = [slice(i * size, (i + 1) * size) for i in range(split)]
        losses = [
            sparsifier.step(*[lambda rows=rows: loss(model, rows) for rows in parts])
            for _ in range(6)
        ]
        return torch.stack(losses), nn.utils.parameters_to_vector(model.parameters())

    whole = run(1)
    for split in (2, 3):
        for a, b in zip(run(split), whole, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_clipping_is_of_the_loss_gradient():
    """The pull of the coupling comes on top; without momentum it can be read off."""
    model, penalty, lr = network(norm=False), 0.5, 0.1
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    method = methods.admm(sparsity=0.6, penalty=penalty, interval=100)
    sparsifier = steppe.sparsify(model, optimizer, method, 3, clip_grad_norm=0.01)
    x = {n: p.detach().clone() for n, p in model.named_parameters()}
    sparsifier.step(lambda: loss(model))
    squares = 0.0
    for name, p in model.named_parameters():
        update = (x[name] - p.detach()) / lr
        if name in sparsifier.state["z"]:
            update -= penalty * (x[name] - sparsifier.state["z"][name])
        squares += float(update.square().sum())
    assert squares**0.5 == pytest.approx(0.01, rel=1e-3)


def test_clipping_as_torch_does_it():
    def run(ours):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, methods.dense(), 5, clip_grad_norm=0.1)
        for _ in range(5):
            if ours:
                sparsifier.step(lambda: loss(model))
                continue
            optimizer.zero_grad()
            loss(model).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.1)
            optimizer.step()
        return model

    assert equal(run(True), run(False))


def test_learning_rate_schedulers_of_torch(recwarn):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.1, total_steps=6)
    sparsifier = steppe.sparsify(model, optimizer, example("safe"), 6)
    train(model, sparsifier, 6, scheduler)
    assert not [w for w in recwarn if "lr_scheduler" in str(w.message)]
    assert sparsifier.finish().sparsity == pytest.approx(0.6, abs=0.01)


@pytest.mark.parametrize("kind", ["safe", "safe_plus", "gmp"])
def test_autocast(kind):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, example(kind), 6)

    def closure():
        with torch.autocast("cpu", torch.bfloat16):
            return loss(model)

    losses = [float(sparsifier.step(closure)) for _ in range(6)]
    assert losses[-1] < losses[0]
    assert all(p.dtype == torch.float32 for p in model.parameters())
    assert sparsifier.finish().sparsity == pytest.approx(0.6, abs=0.01)


@each_method
def test_half_precision_weights(method):
    model = network().to(torch.bfloat16)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, method, 4, **arguments(method))
    for _ in range(4):
        sparsifier.step(lambda: F.cross_entropy(model(X.bfloat16()).float(), Y))
    done = sparsifier.finish()
    assert all(p.dtype == torch.bfloat16 and p.isfinite().all() for p in model.parameters())
    assert done.units_zeroed == round(method.sparsity * done.units)


def scaled(method, scaler, overflow=(), steps=6):
    """A run whose loss is infinite at the given steps."""
    torch.manual_seed(0)
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(
        model, optimizer, method, steps, scaler=scaler, **arguments(method)
    )
    for step in range(steps):
        bad = float("inf") if step in overflow else 1.0
        before = copy.deepcopy(model)
        sparsifier.step(lambda bad=bad: loss(model) * bad)
        if step in overflow:
            yield before, model
    yield sparsifier, model


@each_method
def test_scaling_changes_nothing_but_rounding(method):
    # a power of two does not even change the rounding of the gradient
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    *_, (_, model) = scaled(method, scaler)
    *_, (_, plain) = scaled(method, None)
    for a, b in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@each_method
def test_an_overflow_skips_the_step(method):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    *skipped, (sparsifier, model) = scaled(method, scaler, overflow=(0, 1, 3))
    assert scaler.get_scale() == 2.0**7
    assert all(p.isfinite().all() for p in model.parameters())
    # methods that only pull leave the weights as they were, masks can only have made zeros
    for before, _ in skipped:
        assert all(p.isfinite().all() for p in before.parameters())
    done = sparsifier.finish()
    assert done.units_zeroed == round(method.sparsity * done.units)
    for held in sparsifier.state.values():
        assert all(t.isfinite().all() for t in held.values())


@pytest.mark.parametrize("kind", ["dense", "safe", "safe_plus", "admm"])
@pytest.mark.parametrize("when", [0, 2])
def test_an_overflow_leaves_the_weights_alone(kind, when):
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    torch.manual_seed(0)
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, example(kind), 6, scaler=scaler)
    for step in range(4):
        before = copy.deepcopy(model)
        bad = float("inf") if step == when else 1.0
        sparsifier.step(lambda bad=bad: loss(model) * bad)
        assert equal(before, model) == (step == when)


def test_an_overflow_in_the_second_pass_only():
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    model = network(norm=False)
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, example("safe"), 6, scaler=scaler)
    sparsifier.step(lambda: loss(model))
    before, calls = copy.deepcopy(model), []

    def closure():
        calls.append(1)
        return loss(model) * (float("inf") if len(calls) == 2 else 1.0)

    sparsifier.step(closure)
    assert len(calls) == 2
    assert equal(before, model)


def test_the_activations_of_an_overflow_are_forgotten():
    model = nn.Sequential(nn.Linear(4, 3))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    sparsifier = steppe.sparsify(model, optimizer, example("safe_plus"), 4, scaler=scaler)
    ones = torch.ones(2, 4)
    sparsifier.step(lambda: model(ones * float("inf")).sum())
    sparsifier.step(lambda: model(ones * 2).square().mean())
    held = sparsifier.state_dict()["statistics"]["activation_square"]["0.weight"]
    assert torch.equal(held, torch.full((1, 4), 4.0))


@pytest.mark.parametrize("rho", [0.0, 0.1])
def test_evaluating_between_steps_is_not_observed(rho):
    def run(evaluate):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, example("safe_plus", rho=rho), 4)
        for _ in range(4):
            if evaluate:
                model.eval()
                model(X * 100)
                model.train()
            sparsifier.step(lambda: loss(model))
        return sparsifier.state_dict()["statistics"]["activation_square"]

    plain, evaluated = run(False), run(True)
    assert all(torch.equal(plain[n], evaluated[n]) for n in plain)


def test_the_second_gradient_is_taken_at_x_plus_eps_and_x_comes_back():
    model = network(norm=False)
    rho, seen, gradients = 0.3, [], []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = methods.safe(sparsity=0.6, rho=rho, penalty=0.0)
    sparsifier = steppe.sparsify(model, optimizer, method, 2)
    before = copy.deepcopy(model)
    plain = torch.autograd.grad(loss(model), list(model.parameters()))

    def closure():
        seen.append([p.detach().clone() for p in model.parameters()])
        return loss(model)

    sparsifier.step(closure)
    gradients = [p.grad for p in model.parameters()]
    assert equal(before, model), "x is not restored bit for bit"
    at_x, at_eps = seen
    assert all(torch.equal(a, p) for a, p in zip(at_x, before.parameters(), strict=True))
    length = torch.stack([g.norm() for g in plain]).norm()
    for a, e, g in zip(at_x, at_eps, plain, strict=True):
        torch.testing.assert_close(e, a + rho * g / length)
    with torch.no_grad():
        for p, e in zip(before.parameters(), at_eps, strict=True):
            p.copy_(e)
    expected = torch.autograd.grad(loss(before), list(before.parameters()))
    for a, b in zip(gradients, expected, strict=True):
        torch.testing.assert_close(a, b)


def test_x_comes_back_even_when_the_loss_fails():
    model = network()
    sparsifier = steppe.sparsify(
        model, torch.optim.SGD(model.parameters(), **SGD), example("safe"), 2
    )
    before, calls = copy.deepcopy(list(model.parameters())), []

    def closure():
        calls.append(1)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return loss(model)

    with pytest.raises(KeyboardInterrupt):
        sparsifier.step(closure)
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


@each_method
def test_batch_norm_moves_once_per_step(method):
    model, reference = network(), network()
    reference.load_state_dict(model.state_dict())
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, method, 3, **arguments(method))
    loss(reference)  # one forward at x
    if method.schedule.name == "one_shot" and not method.schedule.at and not method.score.needs:
        pytest.skip("the weights are masked before the first pass")
    if method.schedule.rewinds == "weights":
        pytest.skip("batch norms are rewound with the weights")
    sparsifier.step(lambda: loss(model))
    # a product of two factors is the weight but for its last bit
    error = 1e-6 if isinstance(method.coupling, Parametrized) else 0.0
    for name in ("running_mean", "running_var"):
        found, expected = getattr(model[1], name), getattr(reference[1], name)
        torch.testing.assert_close(found, expected, atol=error, rtol=error)
    train(model, sparsifier, 2)
    assert int(model[1].num_batches_tracked) == 3
    assert model[1].track_running_stats


def test_parameters_without_a_gradient():
    """They are neither perturbed nor moved; only the cuts reach them."""

    class Partial(nn.Module):
        def __init__(self):
            super().__init__()
            self.used, self.unused = nn.Linear(4, 3), nn.Linear(4, 3)
            self.frozen = nn.Linear(3, 3)
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.frozen(self.used(x))

    model = Partial()
    frozen = copy.deepcopy(model.frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    method = methods.safe(sparsity=0.5, penalty=1.0, penalty_schedule="constant")
    sparsifier = steppe.sparsify(model, optimizer, method, 5, exclude=["frozen"])
    bias, weight = model.unused.bias.detach().clone(), model.unused.weight.detach().clone()
    for _ in range(5):
        sparsifier.step(lambda: model(torch.ones(2, 4)).square().mean())
    assert torch.equal(model.unused.bias, bias)
    assert torch.equal(model.unused.weight, weight)
    assert model.unused.weight.grad is None
    assert equal(model.frozen, frozen)
    done = sparsifier.finish()
    assert (done.zeros, done.total) == (12, 24)


@pytest.mark.parametrize("interval", [1, 3])
def test_what_is_never_pulled_does_not_crowd_out_the_rest(interval):
    """The multipliers of a part without a loss would grow until nothing else is kept."""
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(8, 6), "unused": nn.Linear(8, 6)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = methods.admm(sparsity=0.5, penalty=0.1, interval=interval)
    sparsifier = steppe.sparsify(model, optimizer, method, 60)
    x = torch.randn(16, 8)
    for _ in range(30):
        sparsifier.step(lambda: model["used"](x).square().mean())
    saved = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    for _ in range(30):
        sparsifier.step(lambda: model["used"](x).square().mean())
    assert not sparsifier.state["u"]["unused.weight"].any()
    kept = {n: int((z != 0).sum()) for n, z in sparsifier.state["z"].items()}
    alone = sorted(torch.cat([w.abs().flatten() for w in sparsifier.weights.values()]).tolist())[
        48:
    ]
    fair = int((sparsifier.weights["used.weight"].abs() >= alone[0]).sum())
    assert abs(kept["used.weight"] - fair) <= 6
    resumed = nn.ModuleDict({"used": nn.Linear(8, 6), "unused": nn.Linear(8, 6)})
    again = steppe.sparsify(resumed, torch.optim.SGD(resumed.parameters(), lr=0.1), method, 60)
    resumed.load_state_dict(saved[1])
    again.load_state_dict(saved[0])
    for _ in range(30):
        again.step(lambda: resumed["used"](x).square().mean())
    assert equal(resumed, model)
    assert all(torch.equal(again.state["z"][n], z) for n, z in sparsifier.state["z"].items())


def test_a_model_that_moves_takes_its_state_along(monkeypatch):
    """No second device is needed to see that everything is asked to follow."""
    from steppe.engine.step.prunable_weights import PrunableWeights

    def run(moves):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, example("safe_plus"), 6)
        for step in range(6):
            before = {key: dict(value) for key, value in sparsifier.state.items()}
            statistics = dict(sparsifier.state_dict()["statistics"]["activation_square"])
            with monkeypatch.context() as patch:
                if moves and step == 3:
                    patch.setattr(PrunableWeights, "moved", lambda self: True)
                sparsifier._look()
            if moves and step == 3:
                now = sparsifier.state_dict()["statistics"]["activation_square"]
                assert all(now[n] is not t for n, t in statistics.items())
                assert all(
                    sparsifier.state[key][n] is not t
                    for key, value in before.items()
                    for n, t in value.items()
                )
            sparsifier.step(lambda: loss(model))
        return model

    assert equal(run(True), run(False))


@pytest.mark.parametrize("kind", ["gmp-taylor", "safe", "safe_plus", "lth", "pilot", "spred"])
def test_a_model_may_change_its_data_type(kind):
    model = network(norm=False)
    method = METHODS[kind]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, method, 6, **arguments(method))
    train(model, sparsifier, 3)
    model.to(torch.bfloat16)
    for _ in range(3):
        sparsifier.step(lambda: F.cross_entropy(model(X.bfloat16()).float(), Y))
    done = sparsifier.finish()
    assert done.units_zeroed == round(method.sparsity * done.units)
    assert all(p.isfinite().all() for p in model.parameters())


def masks_over_time(method, steps, lr=0.1, zeros=False):
    torch.manual_seed(0)
    model, x = network(), X.clone()
    if zeros:  # what is never on gives no gradient
        x[:, 1] = 0.0
        with torch.no_grad():
            model[0].weight[:, 1] = 1.0
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    sparsifier = steppe.sparsify(model, optimizer, method, steps)
    for step in range(steps):
        if zeros and step == steps // 3:  # then the last ones alive are zero, too
            with torch.no_grad():
                model[0].weight[:, 1] = 0.0
        sparsifier.step(lambda: F.cross_entropy(model(x), Y))
        yield {n: (w != 0).clone() for n, w in sparsifier.weights.items()}, sparsifier.state


@pytest.mark.parametrize("zeros", [False, True])
@pytest.mark.parametrize("budget", ["pooled", "uniform", "per_row", "erk", "lamp"])
def test_gmp_masks_are_nested(budget, zeros):
    method = methods.gmp(sparsity=0.8, every=1, end=1.0, budget=budget)
    held, counts = None, []
    for alive, state in masks_over_time(method, 30, zeros=zeros):
        mask = {n: m.clone() for n, m in state["mask"].items()}
        assert all(not (alive[n] & ~mask[n]).any() for n in mask), "a masked weight is not zero"
        if held is not None:
            assert all(not (mask[n] & ~held[n]).any() for n in mask), "a weight returned"
        held = mask
        counts.append(sum(int((~m).sum()) for m in mask.values()))
    total = sum(m.numel() for m in held.values())
    curve = [1 - (1 - t / 30) ** 3 for t in range(1, 31)]
    assert counts == [round(0.8 * c * total) for c in curve]


def test_iht_weights_may_return():
    returned, before = 0, None
    method = methods.iht(sparsity=0.7, end=0.5)
    for alive, _ in masks_over_time(method, 12, lr=1.0):
        if before is not None:
            returned += sum(int((alive[n] & ~before[n]).sum()) for n in alive)
        before = alive
    assert returned > 0


def test_admm_state_adds_up():
    """u_new = x + u - z, which is zero where z is not; z has exactly the sparsity."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    method = methods.safe(sparsity=0.6, interval=3, penalty=0.1)
    sparsifier = steppe.sparsify(model, optimizer, method, 9)
    for step in range(9):
        old = {n: u.clone() for n, u in sparsifier.state.get("u", {}).items()}
        train(model, sparsifier, 1)
        z, u, x = sparsifier.state["z"], sparsifier.state["u"], sparsifier.weights
        zeros = sum(int((t == 0).sum()) for t in z.values())
        assert zeros == round(0.6 * sum(t.numel() for t in z.values()))
        if step % 3 != 2:
            assert all(torch.equal(u[n], old[n]) for n in old)
            continue
        for n in z:
            assert not u[n][z[n] != 0].any()
            torch.testing.assert_close(u[n] + z[n], x[n] + old[n], atol=1e-7, rtol=0)


def test_admm_reaches_the_constraint_on_a_quadratic():
    """min (w - a)^2 / 2 with two kept: x meets z, and z is the two largest of a."""
    target = torch.tensor([[3.0, -0.5, 1.5, 0.2]])
    model = nn.Linear(4, 1, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    method = methods.admm(sparsity=0.5, penalty=1.0, interval=10)
    sparsifier = steppe.sparsify(model, optimizer, method, 800)
    gaps = []
    for _ in range(800):
        sparsifier.step(lambda: (model.weight - target).square().sum() / 2)
        gaps.append(float((model.weight.detach() - sparsifier.state["z"]["weight"]).norm()))
    assert gaps[-1] < 1e-4 < gaps[20]
    assert sparsifier.finish().distance < 1e-4
    torch.testing.assert_close(
        model.weight.detach(), torch.tensor([[3.0, 0.0, 1.5, 0.0]]), atol=1e-3, rtol=0
    )


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_pattern_without_a_match_is_named(option):
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    with pytest.raises(SteppeError, match="head"):
        steppe.sparsify(model, optimizer, example("safe"), 5, **{option: ["head*"]})


def test_a_run_has_an_end():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    with pytest.raises(SteppeError, match="total_steps"):
        steppe.sparsify(model, optimizer, example("safe"), 0)
    sparsifier = steppe.sparsify(model, optimizer, example("safe"), 2)
    train(model, sparsifier, 2)
    with pytest.raises(SteppeError, match="step 3"):
        sparsifier.step(lambda: loss(model))


def test_weights_outside_of_the_optimizer_are_named():
    model = network()
    optimizer = torch.optim.SGD(model[5].parameters(), **SGD)
    with pytest.raises(SteppeError, match=r"0\.weight"):
        steppe.sparsify(model, optimizer, example("safe"), 2)
    steppe.sparsify(model, optimizer, example("safe"), 2, include=["5"])


def test_finish_without_a_step():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    assert steppe.sparsify(model, optimizer, example("safe"), 2).finish().sparsity > 0.59
    with pytest.raises(SteppeError, match="at least one step"):
        steppe.sparsify(model, optimizer, example("safe_plus"), 2).finish()


def test_what_finish_reports():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    sparsifier = steppe.sparsify(model, optimizer, example("safe"), 3)
    train(model, sparsifier, 3)
    before = torch.cat([w.flatten() for w in sparsifier.weights.values()]).clone()
    done = sparsifier.finish()
    after = torch.cat([w.flatten() for w in sparsifier.weights.values()])
    assert done.distance == pytest.approx(float((before - after).norm() / before.norm()), rel=1e-5)
    assert done.zeros == done.units_zeroed == int((after == 0).sum())
    assert done.sparsity == done.zeros / done.total


def test_the_output_layer_keeps_its_channels():
    method = methods.magnitude(sparsity=0.5, structure="channel")

    def pruned(**given):
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, method, 1, **given)
        return [layer.name for layer in sparsifier.layers], sparsifier.notes

    names, notes = pruned()
    assert names == ["0.weight", "5.weight"]
    assert "7.weight" in notes[0]
    assert pruned(include=["*"])[0] == ["0.weight", "5.weight", "7.weight"]
    # what is excluded already needs no other layer to stand in for it
    assert pruned(exclude=["7"]) == (["0.weight", "5.weight"], [])


class LanguageModel(nn.Module):
    def __init__(self, tie=False):
        super().__init__()
        self.embedding = nn.Embedding(7, 4)
        self.body, self.out = nn.Linear(4, 4), nn.Linear(4, 4)
        self.lm_head = nn.Linear(4, 7, bias=False)
        if tie:
            self.lm_head.weight = self.embedding.weight

    def get_output_embeddings(self):
        return self.lm_head

    def forward(self, ids):
        return self.lm_head(self.out(self.body(self.embedding(ids))))


@pytest.mark.parametrize("tie", [False, True])
@pytest.mark.parametrize("structure", ["unstructured", "channel"])
def test_a_language_models_head_and_embeddings_stay_dense(tie, structure):
    model = LanguageModel(tie)
    embedding, head = model.embedding.weight.clone(), model.lm_head.weight.clone()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    method = methods.magnitude(sparsity=0.5, structure=structure)
    sparsifier = steppe.sparsify(model, optimizer, method, 1)
    sparsifier.step(lambda: model(torch.arange(7)).square().mean())
    done = sparsifier.finish()
    assert list(done.masks) == ["body.weight", "out.weight"]
    assert (done.zeros, done.total) == (16, 32)
    assert torch.equal(embedding, model.embedding.weight)
    assert torch.equal(head, model.lm_head.weight)
    named = steppe.sparsify(model, optimizer, method, 1, include=["body", "lm_head"])
    assert [layer.name for layer in named.layers] == ["body.weight", "lm_head.weight"]


def test_a_layer_tied_to_an_embedding_stays_dense():
    model = nn.ModuleDict(
        {"in": nn.Embedding(7, 4), "mid": nn.Linear(4, 4), "out": nn.Linear(4, 7)}
    )
    model["out"].weight = model["in"].weight
    assert list(steppe.prunable(model)[1]) == ["mid.weight"]
    assert list(steppe.prunable(model, include=["out"])[1]) == ["out.weight"]


@pytest.mark.parametrize("include", [(), ("*",), ("a", "b")])
def test_tied_weights_count_once(include):
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, example("admm"), 2, include=include)
    names = [layer.name for layer in sparsifier.layers]
    assert names == ["a.weight", "c.weight"][: 1 if include == ("a", "b") else 2]
    done = sparsifier.finish()
    assert done.total == 16 * len(names)
    assert done.zeros == round(0.6 * done.total)


def test_a_tied_weight_is_dense_where_one_of_its_names_is_excluded():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4), "c": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    for name in "ab":
        assert list(steppe.prunable(model, exclude=[name])[1]) == ["c.weight"]


def test_norms_biases_and_embeddings_are_never_pruned():
    model = nn.Sequential(nn.Embedding(5, 4), nn.LayerNorm(4), nn.Linear(4, 3), nn.PReLU(3))
    layers, weights = steppe.prunable(model)
    assert [layer.name for layer in layers] == list(weights) == ["2.weight"]


def test_a_compiled_or_wrapped_model_has_its_own_names():
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), **SGD)
    wrapped = nn.DataParallel(model)
    names = [x.name for x in steppe.sparsify(wrapped, optimizer, example("safe"), 2).layers]
    assert names == ["0.weight", "5.weight", "7.weight"]


def test_methods_as_text_give_the_same_run():
    def run(method):
        torch.manual_seed(0)
        model = network()
        optimizer = torch.optim.SGD(model.parameters(), **SGD)
        sparsifier = steppe.sparsify(model, optimizer, method, 3)
        train(model, sparsifier, 3)
        sparsifier.finish()
        return model

    method = example("safe_plus")
    assert equal(run(method), run(Method.from_yaml(method.to_yaml())))


@pytest.mark.parametrize("name", [n for n, m in ALL.items() if m.objective.scope != "task"])
def test_a_method_for_one_layer_at_a_time_is_refused(name):
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"steppe\.prune"):
        steppe.sparsify(model, optimizer, ALL[name], total_steps=2)


@pytest.mark.parametrize(("kind", "until"), [("hard_mask", 5), ("admm", 12)])
def test_statistics_are_gathered_only_while_a_cut_may_read_them(kind, until, monkeypatch):
    from steppe.core.statistic import STATISTICS

    seen = []
    own = STATISTICS["gradient"]
    monkeypatch.setattr(
        own, "observe", lambda self, w, g, old=own.observe: (seen.append(1), old(self, w, g))
    )
    model = network()
    method = Method(
        budget={"name": "pooled", "sparsity": 0.5},
        score="snip",
        coupling=kind,
        schedule={"name": "linear", "start": 0.0, "end": 5 / 12, "every": 2},
    )
    sparsifier = steppe.sparsify(model, torch.optim.SGD(model.parameters(), **SGD), method, 12)
    train(model, sparsifier, 12)
    assert len(seen) == until
    assert sparsifier.finish().units_zeroed == round(0.5 * sparsifier.finish().units)


def test_after_a_refused_step_the_next_one_begins_anew():
    """A closure that did not ask the objective leaves no gradient behind."""
    from steppe import SteppeError

    x = torch.randn(8, 4)

    def run(refused):
        torch.manual_seed(0)
        model = nn.Linear(4, 2)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
        method = steppe.methods.gmp(sparsity=0.5).replace(objective="distillation")
        s = steppe.sparsify(model, optimizer, method, 4)
        if refused:
            with pytest.raises(SteppeError):
                s.step(lambda: model(x).square().mean())

        def closure():
            out = model(x)
            return s.loss(out.square().mean(), outputs=out, inputs=x)

        s.step(closure)
        return model.weight.grad.clone()

    assert torch.equal(run(True), run(False))


def test_nobody_makes_zeros_for_weights_without_a_gradient():
    """What only masks reads no gradient: a backbone that rests costs nothing."""
    model = nn.ModuleDict({"used": nn.Linear(4, 2), "unused": nn.Linear(4, 2)})
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    s = steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.5), 2)
    s.step(lambda: model["used"](torch.ones(3, 4)).square().mean())
    assert set(s._prunable.gradients()) == {"used.weight"}


def test_weights_put_back_after_a_held_step_undo_the_end():
    model = nn.Linear(8, 4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    s = steppe.sparsify(model, optimizer, steppe.methods.safe(sparsity=0.5), 6)

    def closure():
        return model(torch.ones(2, 8)).square().mean()

    s.step(closure)
    dense = {n: t.clone() for n, t in model.state_dict().items()}
    s.finish()
    with pytest.warns(UserWarning, match="after finish"):
        s.step(closure)
    model.load_state_dict(dense)
    s.step(closure)
    assert int((model.weight == 0).sum()) == 0
