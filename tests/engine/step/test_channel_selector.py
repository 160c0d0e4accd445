"""Coupled channels go in all their tensors at once, with every coupling."""

from __future__ import annotations

import inspect
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn

import steppe
from grouped import Net, groups
from steppe import Method, StepOptions, SteppeError, methods
from steppe.budget.knapsack.knapsack import kept_units
from steppe.core.group import Group
from steppe.core.protocols import SearchBudget
from steppe.core.serialization import load_state, save_state
from steppe.engine.step.candidate_evaluation import candidate_evaluator
from steppe.engine.step.channel_selector import ChannelSelector, coupled


def train(method: Method, steps: int = 6) -> tuple[Net, steppe.Sparsifier]:
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=steps, groups=groups())
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
    for _ in range(steps):
        sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))
    return net, sparsifier


@pytest.mark.parametrize("coupling", ["hard_mask", "project", "admm"])
@pytest.mark.parametrize("score", ["magnitude", "l1", "taylor", "fisher"])
def test_a_unit_is_gone_everywhere_or_nowhere(coupling: str, score: str) -> None:
    method = Method(
        score=score,
        structure="channel",
        coupling=coupling,
        schedule={"name": "linear", "end": 0.9},
        budget={"name": "pooled", "sparsity": 0.5},
    )
    net, sparsifier = train(method)
    finished = sparsifier.finish()
    assert finished.units == 14
    named = dict(net.named_parameters())
    gone = 0
    for group in groups():
        held = torch.cat(
            [s.rows(named[s.name].detach()) for s in group.slices if s.name in named], 1
        )
        alive = held.any(1)
        gone += int((~alive).sum())
        assert int(alive.sum()) % group.multiple == 0
    assert gone == finished.units_zeroed == 7
    # the masks say the same, and a channel that is gone gives nothing to the next layer
    with torch.no_grad():
        net.eval()
        inner = net.norm1(net.conv1(torch.randn(2, 6, 8, 8)))
        assert not inner[:, ~finished.masks["conv1.bias"]].any()


def test_masks_never_let_a_channel_return() -> None:
    method = Method(
        structure="channel",
        schedule={"name": "linear", "end": 0.9},
        budget={"name": "pooled", "sparsity": 0.6},
    )
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=10, groups=groups())
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
    before = None
    for _ in range(10):
        sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))
        masks = sparsifier.state["mask"]
        if before is not None:
            assert not any(bool((masks[n] & ~before[n]).any()) for n in masks)
        before = {n: m.clone() for n, m in masks.items()}


def test_a_state_goes_on_bit_for_bit() -> None:
    method = steppe.Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    one, _ = train(method, 6)
    again, _ = train(method, 6)
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), again.parameters(), strict=True))


def test_what_cannot_be_is_refused_before_the_first_step() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    plain = Method(budget={"name": "pooled", "sparsity": 0.5})
    with pytest.raises(SteppeError, match="structure channel"):
        steppe.sparsify(net, optimizer, plain, total_steps=1, groups=groups())
    much = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.95})
    with pytest.raises(SteppeError, match=r"channels must leave room.*fewest"):
        steppe.sparsify(net, optimizer, much, total_steps=1, groups=groups())
    other = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    with pytest.raises(SteppeError, match="belong to one model"):
        steppe.sparsify(nn.Linear(2, 2), optimizer, other, total_steps=1, groups=groups())


def test_phases_change_the_perturbation_in_the_run() -> None:
    phases = ((0.5, {"name": "adasap", "rho_max": 0.1}), (1.0, "none"))
    method = Method(
        structure="channel",
        budget={"name": "pooled", "sparsity": 0.5},
        perturb={"name": "phased", "phases": phases},
    )
    assert Method.from_dict(method.to_dict()) == method
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=4, groups=groups())
    x, y, calls = torch.randn(4, 3, 8, 8), torch.randint(4, (4,)), []

    def closure() -> torch.Tensor:
        calls.append(1)
        return nn.functional.cross_entropy(net(x), y)

    counts = []
    for _ in range(4):
        before = len(calls)
        sparsifier.step(closure)
        counts.append(len(calls) - before)
    assert counts == [2, 2, 1, 1]


NORMED = ["taylor_gate", "bn_gamma"]


@pytest.mark.parametrize("score", ["mean", "squared", "absolute", "elementwise", *NORMED])
@pytest.mark.parametrize("coupling", ["hard_mask", "growing_reg", "soft_mask", "polarisation"])
def test_parts_for_channels_end_exactly(coupling: str, score: str) -> None:
    method = Method(
        score=score if score in NORMED else {"name": "taylor", "variant": score},
        structure="channel",
        coupling=coupling,
        schedule={"name": "linear", "end": 0.9},
        budget={"name": "uniform", "sparsity": 0.5},
    )
    net, sparsifier = train(method, 5)
    finished = sparsifier.finish()
    assert finished.units_zeroed == 7
    weights = dict(net.named_parameters())
    assert not any(bool(weights[n].detach()[~m].any()) for n, m in finished.masks.items())


def humps(net: nn.Module) -> None:
    """Two of six and four of eight scales near zero, the others not."""
    with torch.no_grad():
        net.norm.weight.copy_(torch.tensor([0.9, 0.01, 0.8, 0.7, 0.0, 0.6]))
        net.norm1.weight.copy_(torch.tensor([0.0, 0.9, 0.02, 0.8, 0.01, 0.7, 0.0, 0.6]))


def run(
    method: Method, steps: int = 4
) -> tuple[nn.Module, steppe.Sparsifier, list[dict[str, int]]]:
    """A few steps; the sparsifier's selector gets a trial that likes a wide trunk."""
    tried: list[dict[str, int]] = []

    def trial(kept: dict[str, torch.Tensor]) -> float:
        tried.append({n: int(k.sum()) for n, k in kept.items()})
        return tried[-1]["stem.weight"] / 6

    torch.manual_seed(0)
    net = Net()
    humps(net)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9)
    sparsifier = steppe.sparsify(
        net,
        optimizer,
        method,
        steps,
        groups=groups(),
        options=StepOptions(evaluate_candidate=trial),
    )
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))
    for _ in range(steps):
        assert sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y)).isfinite()
    return net, sparsifier, tried


CHANNELS = ["taylor", "halp", "vbp", "smcp", "eagleeye", "greg1", "greg2", "abcpruner", "polarreg"]


@pytest.mark.parametrize("name", CHANNELS)
def test_published_methods_for_channels(name: str) -> None:
    short = {"every": 2, "update_every": 1, "hold": 1, "candidates": 5, "food": 3, "cycles": 2}
    known = inspect.signature(methods.METHODS[name]).parameters
    method = methods.make(name, sparsity=0.5, **{k: v for k, v in short.items() if k in known})
    assert method.structure.name == "channel"
    _, sparsifier, tried = run(method)
    done = sparsifier.finish()
    # the scales say 6 of 14 where they decide
    assert done.units_zeroed == (6 if name == "polarreg" else 7)
    assert bool(tried) == isinstance(method.budget, SearchBudget)
    for group in groups():
        assert int(sparsifier.selector.alive(done.masks)[group.name].sum()) % group.multiple == 0


@pytest.mark.parametrize("name", ["eagleeye", "abcpruner"])
def test_a_search_is_made_once_inside_the_cost(name: str) -> None:
    method = methods.make(name, sparsity=0.5)
    _, sparsifier, tried = run(method)
    assert all(sum(widths.values()) == 7 for widths in tried)
    assert len({tuple(w.values()) for w in tried}) == len(tried), "something was tried twice"
    count, masks = len(tried), sparsifier.state["mask"]
    done = sparsifier.finish()
    assert len(tried) == count
    assert all(torch.equal(done.masks[n], masks[n]) for n in masks)
    # the trial likes a wide trunk, and the branch must keep 2
    assert int(done.masks["norm.weight"].sum()) == 5
    _, again, _ = run(method)
    assert all(torch.equal(again.state["mask"][n], masks[n]) for n in masks)


def test_a_real_trial_in_the_loop() -> None:
    torch.manual_seed(0)
    net, x, y = Net(), torch.randn(16, 3, 8, 8), torch.randint(4, (16,))

    def accuracy(model: nn.Module) -> float:
        return float((model(x).argmax(1) == y).float().mean())

    trial = candidate_evaluator(net, groups(), [x], accuracy)
    method = methods.make("eagleeye", sparsity=0.5, candidates=4)
    layers, weights = coupled(net, groups())
    select = ChannelSelector(method, layers, {}, groups(), evaluate_candidate=trial)
    held = {n: w.detach() for n, w in weights.items()}
    masks = select(held, 0.5)
    best = trial(select.alive(masks))
    found = method.budget.drawn(
        {g.name: g.members(held).abs().sum(1) for g in groups()}, groups(), select.cost, 7.0
    )
    kept = [kept_units({g.name: g.members(held).abs().sum(1) for g in groups()}, w) for w in found]
    assert best == max(map(trial, kept))


def test_without_a_trial_it_is_refused_in_one_line() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"bee_colony tries channels out.*candidate_evaluator"):
        steppe.sparsify(net, optimizer, methods.abcpruner(0.5), total_steps=1, groups=groups())


def test_scales_without_a_valley_are_an_error_in_the_run() -> None:
    _, sparsifier, _ = run(methods.polarreg(sparsity=0.5), steps=1)
    with torch.no_grad():
        sparsifier.model.norm.weight.fill_(0.9)
        sparsifier.model.norm1.weight.fill_(0.8)
    with pytest.raises(SteppeError, match="no score near zero"):
        sparsifier.finish()


def test_the_cut_lies_where_channels_are_read() -> None:
    net = Net()
    layers, weights = coupled(net, groups())
    method = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    select = ChannelSelector(method, layers, {}, groups())
    masks = select({n: w.detach() for n, w in weights.items()}, 0.5)
    cut = select.cut(masks)
    assert cut.keys() == masks.keys()
    alive = select.alive(masks)
    for name, of in (("conv1", "stem"), ("head", "stem"), ("conv2", "conv1")):
        kept = cut[f"{name}.weight"].transpose(0, 1).flatten(1)
        assert torch.equal(kept.any(1), alive[f"{of}.weight"])
        assert torch.equal(kept.all(1), alive[f"{of}.weight"])
    for name in ("stem.weight", "norm.weight", "norm.bias", "norm1.weight", "conv1.bias"):
        assert cut[name].all()


@pytest.mark.parametrize("name", ["smcp", "greg1", "greg2", "polarreg", "taylor", "halp", "vbp"])
def test_resumed_bit_for_bit(name: str, tmp_path: Path) -> None:
    short = {"every": 2, "update_every": 1, "hold": 1, "delta": 0.3, "pick_delta": 0.005}
    known = inspect.signature(methods.METHODS[name]).parameters
    options = {k: v for k, v in short.items() if k in known}
    method = methods.make(name, sparsity=0.5, budget="pooled", **options)
    x, y = torch.randn(16, 3, 8, 8), torch.randint(4, (16,))

    def start(seed: int) -> tuple[nn.Module, steppe.Sparsifier]:
        torch.manual_seed(seed)
        net = Net()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
        return net, steppe.sparsify(net, optimizer, method, 12, groups=groups())

    def go(net: nn.Module, sparsifier: steppe.Sparsifier, steps: int) -> None:
        for _ in range(steps):
            sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))

    one, whole = start(0)
    go(one, whole, 8)
    saved = {"model": one.state_dict(), "sparsifier": whole.state_dict()}
    save_state(tmp_path / "state", saved)
    go(one, whole, 4)
    other, rest = start(1)
    read = load_state(tmp_path / "state")
    other.load_state_dict(read["model"])
    rest.load_state_dict(read["sparsifier"])
    go(other, rest, 4)
    assert whole.state.keys() == rest.state.keys()
    masks, again = whole.finish().masks, rest.finish().masks
    assert all(torch.equal(masks[n], again[n]) for n in masks)
    assert all(map(torch.equal, one.state_dict().values(), other.state_dict().values()))


def test_what_the_scores_decided_stays_decided() -> None:
    method = methods.polarreg(sparsity=0.9).replace(
        coupling="hard_mask", schedule={"name": "linear", "end": 0.9}
    )
    _, sparsifier, _ = run(method, steps=5)
    done = sparsifier.finish()
    assert done.units_zeroed == 6
    assert (~done.masks["norm.weight"]).nonzero().flatten().tolist() == [1, 4]


def test_exponential_cuts_leave_what_the_schedule_says_and_end_at_the_target() -> None:
    plain = [Group(g.name, g.slices) for g in groups()]
    method = Method(
        structure="channel",
        schedule={"name": "exponential", "every": 2},
        budget={"name": "pooled", "sparsity": 0.5},
    )
    torch.manual_seed(0)
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    sparsifier = steppe.sparsify(net, optimizer, method, total_steps=10, groups=plain)
    x, y = torch.randn(8, 3, 8, 8), torch.randint(4, (8,))
    left = [14]
    for step in range(10):
        sparsifier.step(lambda: nn.functional.cross_entropy(net(x), y))
        left.append(sparsifier.selector.kept(sparsifier.state["mask"]))
        if step % 2:
            # k_r = m^(1 - r/R) k^(r/R), whole channels from below
            assert left[-1] == int(14 * 0.5 ** ((step + 1) / 10) + 1e-6)
        else:
            assert left[-1] == left[-2]
    assert left[0] - left[-1] == 7 == sum(a - b for a, b in pairwise(left))


def test_no_groups_of_a_model_whose_channels_all_stay_are_refused() -> None:
    net = Net()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    method = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.5})
    with pytest.raises(SteppeError, match="every channel of this model must stay"):
        steppe.sparsify(net, optimizer, method, total_steps=2, groups=[])
    steppe.sparsify(net, optimizer, method, total_steps=2)  # single layers


def test_groups_of_a_wider_model_are_refused_before_the_training() -> None:
    net = Net()
    first = groups()[0].slices[0]
    owner, _, name = first.name.rpartition(".")
    weight = net.get_parameter(first.name)
    setattr(net.get_submodule(owner), name, nn.Parameter(weight.detach()[:1].clone()))
    with pytest.raises(SteppeError, match="groups of channels belong to one model"):
        coupled(net, groups())


def test_entries_of_no_unit_that_can_go_are_fixed() -> None:
    """A coupling that pulls weights to zero is told of them; of whole tensors there are none."""
    net = Net()
    method = Method(structure="channel", budget={"name": "pooled", "sparsity": 0.2})
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    inner = groups(multiple=1)[1]
    some = [replace(s, index=s.index[:3]) for s in inner.slices]
    for given, wanted in (
        (groups(), {}),
        (
            [Group(inner.name, tuple(some))],
            {"norm1.weight": [3, 4, 5, 6, 7], "conv1.bias": [3, 4, 5, 6, 7]},
        ),
    ):
        s = steppe.sparsify(net, optimizer, method, total_steps=1, groups=given)
        fixed = s.selector.fixed(dict(net.named_parameters()))
        assert {n: fixed[n].nonzero().flatten().tolist() for n in wanted} == wanted
        assert not fixed.keys() - ({s.name for s in some} if wanted else set())
