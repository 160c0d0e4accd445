"""V v^2 with the optimiser's own V, whichever optimiser keeps one."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import steppe
from looped import looped
from steppe import SteppeError, methods

METHOD = methods.elsa(sparsity=0.5, interval=2, score="adam_second_moment")
KEEPING: dict[str, Any] = {
    "Adam": lambda p: torch.optim.Adam(p, lr=1e-2),
    "AdamW": lambda p: torch.optim.AdamW(p, lr=1e-2, amsgrad=True),
    "NAdam": lambda p: torch.optim.NAdam(p, lr=1e-2),
    "RMSprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9),
}


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))


def go(model: nn.Module, sparsifier: steppe.Sparsifier, steps: int) -> None:
    x = torch.randn(12, 6, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        sparsifier.step(lambda: model(x).square().mean())


def mask_of(weight: Tensor, moment: Tensor | float) -> Tensor:
    rank = (weight**2 * moment).flatten()
    mask = torch.zeros(rank.numel(), dtype=torch.bool)
    mask[rank.topk(rank.numel() - round(0.5 * rank.numel())).indices] = True
    return mask.view_as(weight)


@pytest.mark.parametrize("name", KEEPING)
def test_the_largest_v_squared_times_the_moment_stay(name: str) -> None:
    model = network()
    optimizer = KEEPING[name](model.parameters())
    sparsifier = steppe.sparsify(model, optimizer, METHOD, 8)
    go(model, sparsifier, 5)
    key = "square_avg" if name == "RMSprop" else "exp_avg_sq"
    weights = {n: w.clone() for n, w in sparsifier.weights.items()}
    moments = {n: optimizer.state[model.get_parameter(n)][key] for n in weights}
    masks = sparsifier.finish().masks
    assert all(torch.equal(masks[n], mask_of(w, moments[n])) for n, w in weights.items())
    assert any(not torch.equal(masks[n], mask_of(w, 1.0)) for n, w in weights.items())


def test_before_the_first_step_it_is_magnitude() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = steppe.sparsify(model, optimizer, METHOD, 8)
    weights = {n: w.clone() for n, w in sparsifier.weights.items()}
    masks = sparsifier.finish().masks
    assert all(torch.equal(masks[n], mask_of(w, 1.0)) for n, w in weights.items())


@looped(
    optimizer=[
        lambda p: torch.optim.SGD(p, lr=0.1),
        lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    ]
)
def test_an_optimiser_that_has_none_is_refused_at_once(optimizer: Any) -> None:
    model = network()
    with pytest.raises(SteppeError, match=r"SGD, which keeps none.*Adam, AdamW or RMSprop") as said:
        steppe.sparsify(model, optimizer(model.parameters()), METHOD, 8)
    assert "\n" not in str(said.value)


class Signs(torch.optim.Optimizer):
    """Remembers nothing, and one cannot see it from its options."""

    def __init__(self, params: Any) -> None:
        super().__init__(params, {"lr": 0.01})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:
        for p in self.param_groups[0]["params"]:
            p -= 0.01 * p.grad.sign()


@pytest.mark.parametrize("kind", [Signs, torch.optim.Adagrad, torch.optim.Adafactor])
def test_one_that_shows_so_only_in_its_step_is_refused_then(kind: Any) -> None:
    model = network()
    sparsifier = steppe.sparsify(model, kind(model.parameters()), METHOD, 8)
    with pytest.raises(SteppeError, match=f"{kind.__name__}, which keeps none"):
        go(model, sparsifier, 1)


class Quantised(Tensor):
    """As torchao's: steps of 1 / 255 that stand for numbers."""

    def dequantize(self) -> Tensor:  # type: ignore[override]
        return self.as_subclass(Tensor) / 255


def test_what_is_quantised_is_read_as_the_numbers_that_it_stands_for() -> None:
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = steppe.sparsify(model, optimizer, METHOD, 8)
    go(model, sparsifier, 1)
    moments = {n: torch.rand(w.shape) for n, w in sparsifier.weights.items()}
    for n, moment in moments.items():
        state = optimizer.state[model.get_parameter(n)]
        state["exp_avg_sq"] = (moment * 255).as_subclass(Quantised)
    expected = {n: mask_of(w, moments[n]) for n, w in sparsifier.weights.items()}
    masks = sparsifier.finish().masks
    assert all(torch.equal(masks[n], expected[n]) for n in expected)


def test_a_weight_that_took_no_part_counts_by_its_size() -> None:
    torch.manual_seed(0)
    model = nn.ModuleDict({"used": nn.Linear(6, 4), "unused": nn.Linear(6, 4)})
    optimizer = torch.optim.Adam(model.parameters())
    sparsifier = steppe.sparsify(model, optimizer, METHOD, 4, include=["*"])
    for _ in range(3):
        sparsifier.step(lambda: model["used"](torch.randn(5, 6)).square().mean())
    expected = mask_of(sparsifier.weights["unused.weight"], 1.0)
    assert torch.equal(sparsifier.finish().masks["unused.weight"], expected)


def test_a_resumed_run_goes_on_bit_for_bit_and_its_state_holds_no_second_copy() -> None:
    def begun() -> tuple[nn.Module, steppe.Sparsifier]:
        model = network()
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
        return model, steppe.sparsify(model, optimizer, METHOD, 12)

    model, sparsifier = begun()
    go(model, sparsifier, 5)
    state, weights = copy.deepcopy(sparsifier.state_dict()), copy.deepcopy(model.state_dict())
    assert state["statistics"] == {"second_moment": {}}
    go(model, sparsifier, 7)
    again, resumed = begun()
    again.load_state_dict(weights)
    resumed.load_state_dict(state)
    go(again, resumed, 7)
    for done in (sparsifier, resumed):
        done.finish()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)
