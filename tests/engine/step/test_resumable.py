"""A state that does not fit is refused in one line, before anything of it is taken."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import steppe
from steppe import SteppeError

X, Y = torch.randn(32, 16), torch.arange(32) % 4
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def sgd(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD(params, lr=0.01, momentum=0.9)


def adamw(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.AdamW(params, lr=0.01)


def in_two_groups(params: list[nn.Parameter]) -> torch.optim.Optimizer:
    return torch.optim.SGD([{"params": params[:1]}, {"params": params[1:]}], lr=0.01, momentum=0.9)


def started(
    make: Make = sgd, width: int = 8, method: Any = "gmp", steps: int = 6, **options: Any
) -> tuple[nn.Module, steppe.Sparsifier]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, width), nn.ReLU(), nn.Linear(width, 4))
    named = getattr(steppe.methods, method)(sparsity=0.5)
    optimizer = make(list(model.parameters()))
    return model, steppe.sparsify(model, optimizer, named, steps, **options)


def loss(model: nn.Module) -> Tensor:
    return F.cross_entropy(model(X), Y)


OTHERS: dict[str, tuple[dict[str, Any], str]] = {
    "optimizer": ({"make": adamw}, "same optimizer; got SGD in the state, AdamW here"),
    "groups": ({"make": in_two_groups}, r"parameter groups; got \[4\] tensors in the state"),
    "shapes": ({"width": 12}, r"0\.weight \(8, 16\) in the state, \(12, 16\) here, and 1 more"),
    "names": ({"include": ["2"]}, r"0\.weight \(8, 16\) in the state, not there here"),
    "scaler": ({"scaler": torch.amp.GradScaler("cpu")}, "same scaler; got one here, not in the"),
    "length": ({"steps": 7}, "same total_steps"),
    "coupling": ({"method": "safe"}, "same method"),
}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_of_another_run_changes_nothing(other: str) -> None:
    options, message = OTHERS[other]
    model, sparsifier = started()
    sparsifier.step(lambda: loss(model))
    state = sparsifier.state_dict()
    target, fresh = started(**options)
    before, random = copy.deepcopy(fresh.state_dict()), torch.get_rng_state()
    with pytest.raises(SteppeError, match=message):
        fresh.load_state_dict(state)
    assert torch.equal(torch.get_rng_state(), random)
    after = fresh.state_dict()
    assert after["optimizer"]["state"] == before["optimizer"]["state"] == {}
    assert after["step"] == 0
    assert after["coupling"] is None
    fresh.step(lambda: loss(target))


@pytest.mark.parametrize("state", [None, [], {}, {"step": 1}, "partial"])
def test_what_is_no_state_is_one_line(state: Any) -> None:
    model, sparsifier = started()
    sparsifier.step(lambda: loss(model))
    given = sparsifier.state_dict()
    if state == "partial":
        del given["rng"]
    with pytest.raises(SteppeError, match=r"what sparsifier\.state_dict"):
        sparsifier.load_state_dict(given if state == "partial" else state)


def test_a_state_of_before_is_still_taken() -> None:
    model, sparsifier = started()
    sparsifier.step(lambda: loss(model))
    state = sparsifier.state_dict()
    for key in ("made_of", "finished"):
        del state[key]
    _, fresh = started()
    fresh.load_state_dict(state)
    assert fresh.steps_done == 1


def test_of_several_processes_each_goes_on_with_the_draws_of_the_gpu_of_the_first(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One file is saved by the first, in which the GPUs of the others have drawn nothing."""
    drawn = {number: torch.full((16,), number, dtype=torch.uint8) for number in range(2)}
    device, given = [0], []
    monkeypatch.setattr("steppe.engine.step.saved_state.world", lambda: 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: drawn[device[0]])
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: [*drawn.values()])
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda s: given.append((device[0], s)))
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", given.append)
    state = started()[1].state_dict()
    device[0] = 1
    _, second = started()
    second.load_state_dict(state)
    assert [(number, s.tolist()) for number, s in given] == [(1, [0] * 16)]


def test_a_state_of_a_machine_with_gpus_is_taken_and_says_what_is_lost() -> None:
    model, sparsifier = started()
    sparsifier.step(lambda: loss(model))
    state = sparsifier.state_dict() | {"cuda_rng": [torch.zeros(16, dtype=torch.uint8)] * 99}
    _, fresh = started()
    fresh.load_state_dict(state)
    assert fresh.steps_done == 1
    assert "the random numbers of 99 GPUs" in fresh.notes[-1]


def test_zeros_of_an_end_that_was_saved_stay_after_resuming() -> None:
    model, sparsifier = started(method="safe")
    sparsifier.step(lambda: loss(model))
    done = sparsifier.finish()
    again, fresh = started(method="safe")
    again.load_state_dict(model.state_dict())
    fresh.load_state_dict(sparsifier.state_dict())
    with pytest.warns(UserWarning, match="its zeros stay"):
        fresh.step(lambda: loss(again))
    assert fresh.finish().zeros == done.zeros
    assert all(not w[~done.masks[n]].any() for n, w in fresh.weights.items())


def test_a_resume_before_the_end_undoes_it() -> None:
    model, sparsifier = started(method="safe")
    sparsifier.step(lambda: loss(model))
    state, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    sparsifier.step(lambda: loss(model))
    expected = [p.detach().clone() for p in model.parameters()]
    sparsifier.finish()
    model.load_state_dict(weights)
    sparsifier.load_state_dict(state)
    sparsifier.step(lambda: loss(model))
    assert all(torch.equal(p, e) for p, e in zip(model.parameters(), expected, strict=True))


def test_options_that_a_state_of_before_does_not_name_are_no_others() -> None:
    _, sparsifier = started(method="safe")
    state = sparsifier.state_dict()
    del state["method"]["perturb"]["on"]
    _, fresh = started(method="safe")
    fresh.load_state_dict(state)
    state["method"]["perturb"]["rho"] = 0.3
    with pytest.raises(SteppeError, match=r"got perturb\.rho 0\.3 in the state, 0\.1 here"):
        fresh.load_state_dict(state)


@pytest.mark.parametrize("method", ["spred", "soft_threshold"])
def test_what_is_folded_cannot_go_on(method: str) -> None:
    model, sparsifier = started(method=method)
    sparsifier.step(lambda: loss(model))
    state = sparsifier.state_dict()
    sparsifier.finish()
    with pytest.raises(SteppeError, match="same weights"):
        sparsifier.load_state_dict(state)
    _, fresh = started(method=method)
    with pytest.raises(SteppeError, match="same weights"):
        fresh.load_state_dict(sparsifier.state_dict())


EARLIER = {
    "safe": {"penalty": 0.001, "interval": 32},
    "admm": {"penalty": 0.001, "interval": 32},  # its curve is the option penalty_schedule
    "iht": {"budget": "uniform"},
}


@pytest.mark.parametrize("name", EARLIER)
def test_the_parts_of_an_earlier_default_are_named_and_work(name: str) -> None:
    def made(method: steppe.Method) -> steppe.Sparsifier:
        return steppe.sparsify(model, sgd([*model.parameters()]), method, 6)

    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    build = getattr(steppe.methods, name)
    before = made(build(sparsity=0.5, **EARLIER[name]))
    before.step(lambda: loss(model))
    method = build(sparsity=0.5)
    with pytest.raises(SteppeError, match=r"Way out: .*: method\.replace\(") as refused:
        made(method).load_state_dict(before.state_dict())
    typed = eval(str(refused.value).rpartition("stopped: ")[2], {"method": method})
    made(typed).load_state_dict(before.state_dict())


def perturbed(method: str, **perturb: Any) -> steppe.Sparsifier:
    torch.manual_seed(0)
    model = nn.Linear(16, 4)
    how = {"name": "sam", "rho": 0.5, **perturb}
    named = getattr(steppe.methods, method)(sparsity=0.5).replace(perturb=how)
    sparsifier = steppe.sparsify(model, sgd([*model.parameters()]), named, 6)
    sparsifier.step(lambda: loss(model))
    return sparsifier


def of_before(sparsifier: steppe.Sparsifier) -> dict[str, Any]:
    """As version 0.1.0 wrote it, where perturbations moved all weights."""
    state = copy.deepcopy(sparsifier.state_dict())
    del state["method"]["perturb"]["on"]
    return state


def test_a_run_that_perturbed_zeros_goes_on_only_as_it_began() -> None:
    with pytest.raises(
        SteppeError, match=r"sam moved weights that hard_mask holds at zero \(on 'all'\)"
    ):
        perturbed("gmp").load_state_dict(of_before(perturbed("gmp")))
    perturbed("gmp", on="all").load_state_dict(of_before(perturbed("gmp", on="all")))
    perturbed("gmp").load_state_dict(perturbed("gmp").state_dict())
    perturbed("admm").load_state_dict(of_before(perturbed("admm")))  # it holds nothing at zero
    with pytest.raises(SteppeError, match=r"same method; got perturb\.on"):
        perturbed("gmp", on="all").load_state_dict(perturbed("gmp").state_dict())


def test_where_no_step_is_left_the_rule_of_steps_does_not_matter() -> None:
    fresh, done = perturbed("gmp"), perturbed("gmp")
    fresh.load_state_dict(of_before(done) | {"step": 6})
    assert fresh.steps_done == 6
    done.finish()
    fresh.load_state_dict(of_before(done))
    assert fresh.steps_done == 1
