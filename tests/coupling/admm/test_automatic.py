"""The automatic penalty: the same pull and as many dual updates, whatever the run."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import steppe
from looped import looped
from steppe import SteppeError, methods
from steppe.core.curves import CURVES
from steppe.core.step_context import StepContext
from steppe.coupling.admm import Admm, automatic
from steppe.coupling.admm.automatic import PULL, UPDATES, interval_of, move, numbers
from steppe.coupling.admm.compact import begin
from steppe.coupling.admm.rounding import Rounding

OPTIMIZERS = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-3),
    "nadam": lambda p: torch.optim.NAdam(p, lr=1e-3),
}
RATES = {
    "constant": lambda p: 1.0,
    "warm-up from 0, cosine to 0": lambda p: min(p / 0.1, 0.5 * (1.0 + math.cos(math.pi * p))),
    "steps": lambda p: 0.1 ** int(3 * p),
}


def begun(method, total, kind="sgd"):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    return model, steppe.sparsify(model, OPTIMIZERS[kind](model.parameters()), method, total)


def go(sparsifier, model, steps, rate=RATES["constant"]):
    x, y = torch.randn(12, 6, generator=torch.Generator().manual_seed(1)), torch.arange(12) % 3
    base = sparsifier.optimizer.defaults["lr"]
    for _ in range(steps):
        for group in sparsifier.optimizer.param_groups:
            group["lr"] = base * rate(sparsifier.steps_done / sparsifier.total_steps)
        sparsifier.step(lambda: F.cross_entropy(model(x), y))


def shown(sparsifier):
    return sparsifier.coupling.shown(sparsifier.state)


@looped(case=itertools.product(OPTIMIZERS, RATES, [1, 2, 7, 30]))
def test_the_total_pull_is_the_same_in_every_run(case):
    kind, rate, total = case
    model, sparsifier = begun(methods.safe(sparsity=0.5), total, kind)
    go(sparsifier, model, total, RATES[rate])
    run = shown(sparsifier)
    # a step with learning rate 0 moves nothing
    first = RATES[rate](0.0) == 0.0
    weights = [1.0 - math.cos(math.pi * (t + 1) / total) for t in range(total)]
    expected = PULL * sum(weights[first:]) / sum(weights)
    assert run["pulled"] == pytest.approx(expected, rel=1e-12)
    assert run["updates"] == total // run["interval"]
    assert run["strongest_pull"] >= expected / total


@looped(shape=list(CURVES))
def test_alone_it_shrinks_what_is_apart_by_all_of_the_pull(shape):
    """Hardly a learning rate, no dual updates: x - z is exp(-pull) of what it was."""
    method = methods.admm(sparsity=0.5, penalty_schedule=shape, interval=1000)
    model, sparsifier = begun(method, 9)
    before = model[0].weight.detach().clone()
    go(sparsifier, model, 9, lambda p: 1e-12)
    z = sparsifier.state["z"]["0.weight"]
    torch.testing.assert_close(
        model[0].weight.detach() - z, math.exp(-PULL) * (before - z), rtol=0.01, atol=1e-7
    )


def test_as_many_updates_as_the_paper_where_there_are_steps_for_them():
    assert interval_of(78_000) == 32
    for total in (1, 400, 2400, 3599, 3600, 10_000, 78_000, 10**6):
        interval = interval_of(total)
        assert 1 <= interval <= total
        assert total // interval <= 1.5 * UPDATES
        if total >= UPDATES:
            assert total // interval >= UPDATES / 1.5


def test_a_resumed_run_goes_on_bit_for_bit_and_with_the_numbers_it_began_with(monkeypatch):
    method = methods.safe(sparsity=0.5)
    model, whole = begun(method, 12)
    go(whole, model, 5)
    state, weights = copy.deepcopy(whole.state_dict()), copy.deepcopy(model.state_dict())
    go(whole, model, 7)
    monkeypatch.setattr("steppe.coupling.admm.automatic.UPDATES", 2)
    again, resumed = begun(method, 12)
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    go(resumed, again, 7)
    assert shown(resumed) == shown(whole)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_run_of_before_with_a_number_goes_on():
    """Its state knows no pull, which its penalty does not read."""
    method = methods.safe(sparsity=0.5, penalty=0.1, interval=2)
    model, sparsifier = begun(method, 4)
    go(sparsifier, model, 2)
    state = copy.deepcopy(sparsifier.state_dict())
    del state["method"]["coupling"]["pull"]
    assert set(state["coupling"]) == {"v", "kept"}
    sparsifier.load_state_dict(state)
    go(sparsifier, model, 2)


def test_what_took_no_part_in_a_step_is_not_pulled():
    torch.manual_seed(0)
    model = nn.ModuleList([nn.Linear(4, 4), nn.Linear(4, 4)])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, methods.admm(sparsity=0.5), 3)
    before = model[1].weight.detach().clone()
    for _ in range(3):
        sparsifier.step(lambda: model[0](torch.ones(2, 4)).square().mean())
    assert torch.equal(model[1].weight, before)


@pytest.mark.parametrize("as_tensor", [False, True])
def test_learning_rate_0_leaves_weights_where_they_are(as_tensor):
    """Nor do they count for others: their multiplier does not grow in a pooled projection."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    rates = [torch.tensor(0.0) if as_tensor else 0.0, 0.1]
    groups = [{"params": m.parameters(), "lr": r} for m, r in zip(model, rates, strict=True)]
    optimizer = torch.optim.SGD(groups, lr=0.1, foreach=False)
    method = methods.safe(sparsity=0.5, interval=2)
    sparsifier = steppe.sparsify(model, optimizer, method, 8)
    before = [m.weight.detach().clone() for m in model]
    for _ in range(8):
        sparsifier.step(lambda: model(torch.ones(2, 4)).square().mean())
    assert torch.equal(model[0].weight, before[0])
    assert not torch.equal(model[1].weight, before[1])
    assert not sparsifier.state["u"]["0.weight"].any()
    assert sparsifier.state["u"]["1.weight"].any()


def with_rates(penalty, interval, rates):
    """A run whose learning rate is given for each step; the sparsifier."""
    model, sparsifier = begun(
        methods.admm(sparsity=0.5, penalty=penalty, interval=interval), len(rates)
    )
    go(sparsifier, model, len(rates), lambda p: rates[round(p * len(rates))])
    return sparsifier


@pytest.mark.parametrize("penalty", ["auto", 1e-2])
def test_no_multiplier_grows_while_every_learning_rate_is_0(penalty):
    sparsifier = with_rates(penalty, 2, [0.0] * 8)
    assert not any(u.any() for u in sparsifier.state["u"].values())


@pytest.mark.parametrize("penalty", ["auto", 1e-2])
def test_what_moved_since_the_last_update_takes_part_in_the_next(penalty):
    """Though its learning rate is 0 just then; a state that was saved in between knows it."""
    sparsifier = with_rates(penalty, 4, [1.0, 0.0, 0.0, 0.0])
    assert all(u.any() for u in sparsifier.state["u"].values())
    rates = [0.0, 0.0, 0.0, 0.0, 0.0, 1.0]
    model, half = begun(methods.admm(sparsity=0.5, penalty=penalty, interval=4), 6)
    go(half, model, 2, lambda p: 0.0)
    again, resumed = begun(methods.admm(sparsity=0.5, penalty=penalty, interval=4), 6)
    resumed.load_state_dict(copy.deepcopy(half.state_dict()))
    go(resumed, again, 2, lambda p: rates[round(p * 6)])
    assert not any(u.any() for u in resumed.state["u"].values())


def pulled_in(dtype, total=8000):
    """The weight after half the steps of a run in which nothing else moves it, in 32 bits."""
    x = torch.randn(16, 16, generator=torch.Generator().manual_seed(0)).to(dtype)
    state = begin({"w": x}, {"w": torch.zeros(16, 16, dtype=torch.bool)}, Rounding(None, 0))
    state["run"] = numbers(1, PULL, "cosine", total)
    context = StepContext(
        step=0, total=total, sparsity=0.5, due=False, weights={"w": x}, project=None, state=state
    )
    context.moved = frozenset({"w"})
    for context.step in range(total // 2):
        move(context, "cosine")
    return x.float(), float(state["run"]["pulled"])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_in_16_bits_the_pull_is_that_of_32(dtype):
    """A step's pull is less than a rounding, and would be lost step by step."""
    (wide, pull), (narrow, same) = pulled_in(torch.float32), pulled_in(dtype)
    assert pull == same > 1.0
    rounding = 2 * torch.finfo(dtype).eps
    smallest = torch.finfo(dtype).tiny  # below it numbers are coarser
    torch.testing.assert_close(narrow, wide, rtol=rounding, atol=smallest)


def test_what_rounding_took_is_saved():
    def made():
        model, sparsifier = begun(methods.admm(sparsity=0.5), 8)
        model.bfloat16()
        return model, sparsifier

    def some(model, sparsifier, steps):
        for _ in range(steps):
            sparsifier.step(lambda: model(torch.ones(3, 6, dtype=torch.bfloat16)).square().mean())

    model, sparsifier = made()
    some(model, sparsifier, 3)
    weights, state = copy.deepcopy(model.state_dict()), copy.deepcopy(sparsifier.state_dict())
    assert any(rest.any() for rest in state["coupling"]["rest"].values())
    some(model, sparsifier, 5)
    again, resumed = made()
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    some(again, resumed, 5)
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_step_that_the_scaler_skips_pulls_nothing():
    model, sparsifier = begun(methods.admm(sparsity=0.5), 3)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    sparsifier = steppe.sparsify(
        model, sparsifier.optimizer, methods.admm(sparsity=0.5), 3, scaler=scaler
    )
    before = model[0].weight.detach().clone()
    x = torch.ones(2, 6)
    sparsifier.step(lambda: model(x).sum() * float("inf"))
    assert torch.equal(model[0].weight, before)
    assert shown(sparsifier)["pulled"] == 0.0
    sparsifier.step(lambda: model(x).square().mean())
    assert shown(sparsifier)["pulled"] > 0.0


class Dropping(torch.optim.SGD):
    """Leaves no gradients behind, as optimisers that save memory do."""

    def step(self, closure=None):
        super().step()
        self.zero_grad(set_to_none=True)


def test_an_optimiser_that_drops_its_gradients_is_pulled_as_any():
    model, _ = begun(methods.admm(sparsity=0.5), 3)
    optimizer = Dropping(model.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, methods.admm(sparsity=0.5), 3)
    go(sparsifier, model, 3)
    assert shown(sparsifier)["pulled"] == pytest.approx(PULL, rel=1e-12)


class Averaging(torch.optim.SGD):
    """Trains other weights than it evaluates, as schedule-free optimisers do."""

    def train(self) -> None: ...

    def eval(self) -> None: ...


def test_an_optimiser_that_would_undo_the_pull_is_refused_with_a_way_out():
    model = nn.Linear(4, 4)
    optimizer = Averaging(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"Averaging.*penalty=1e-3, interval=32"):
        steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5), 4)
    steppe.sparsify(model, optimizer, methods.safe(sparsity=0.5, penalty=1e-3, interval=32), 4)


class Around(torch.optim.Optimizer):
    """Steps another optimiser, as Lookahead does."""

    def __init__(self, base):
        super().__init__(base.param_groups, {})
        self.base = base

    def step(self, closure=None):
        self.base.step()


def test_one_around_another_is_refused_with_what_is_known_of_it():
    model = nn.Linear(4, 4)
    optimizer = Around(torch.optim.SGD(model.parameters(), lr=0.1))
    with pytest.raises(SteppeError, match=r"Around, which is built around SGD and may hold"):
        steppe.sparsify(model, optimizer, methods.admm(sparsity=0.5), 4)
    steppe.sparsify(model, optimizer, methods.admm(sparsity=0.5, penalty=1e-3, interval=32), 4)


@looped(
    wrong=[
        {"penalty": "much"},
        {"interval": "often"},
        {"penalty": float("nan")},
        {"pull": 0.0},
        {"pull": 5.0, "penalty": 0.1},
    ]
)
def test_what_is_neither_a_number_nor_auto(wrong):
    with pytest.raises(SteppeError):
        Admm(**wrong)


def test_nobody_is_told_to_raise_what_fits_by_itself():
    def advice(method):
        model, sparsifier = begun(method, 8)
        go(sparsifier, model, 8, lambda p: 0.0)
        sparsifier.finish()
        return replace(sparsifier.finish(), distance=0.5).far(method)

    assert "penalty" not in advice(methods.safe(sparsity=0.9))
    with pytest.warns(UserWarning, match="penalty auto"):
        assert "penalty auto" in advice(methods.safe(sparsity=0.9, penalty=1e-3))


def test_a_run_so_short_that_the_pull_is_nearly_a_projection_is_told():
    def notes(total, **options):
        return begun(methods.safe(sparsity=0.9, **options), total)[1].notes

    (short,) = notes(20)
    assert "of 20 steps the strongest goes 61% of the way" in short
    assert not notes(200)
    (few,) = notes(480, interval=32)
    assert "32 steps apart" in few
    assert few.endswith("Way out: interval auto (--interval auto)")
    assert not notes(480, interval=32, penalty=1e-3)
    assert not notes(480, interval=4)


@pytest.mark.parametrize("shape", sorted(CURVES))
def test_the_pull_of_a_run_too_long_to_add_up(shape: str, monkeypatch: pytest.MonkeyPatch) -> None:
    exact = automatic.unit_of(10.0, shape, 5000)
    monkeypatch.setattr(automatic, "_SUMMED", 1000)
    assert automatic.unit_of(10.0, shape, 5000) == pytest.approx(exact, rel=1e-6)
    assert automatic.unit_of(10.0, shape, 10**12) < exact
