"""What users get wrong in a loop of their own is one line with a way out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.engine.step.argument_checks import outcome


def parts() -> tuple[nn.Module, torch.optim.Optimizer, steppe.Method]:
    model = nn.Linear(4, 2)
    return model, torch.optim.SGD(model.parameters(), lr=0.1), steppe.methods.safe(0.5)


def test_arguments_in_another_order_or_kind() -> None:
    model, optimizer, method = parts()
    for wrong in ((optimizer, model, method), (model, optimizer, "safe")):
        with pytest.raises(SteppeError, match="in this order"):
            steppe.sparsify(*wrong, total_steps=3)  # type: ignore[arg-type]


def backward_inside(model: nn.Module) -> torch.Tensor:
    loss: torch.Tensor = model(torch.ones(3, 4)).square().mean()
    loss.backward()
    return loss


CLOSURES: dict[str, Callable[[nn.Module], Any]] = {
    "functions that compute": lambda model: model(torch.ones(3, 4)).mean(),
    "leaves backward": lambda model: lambda: backward_inside(model),
    "scalar loss": lambda model: lambda: None,
    "got float": lambda model: lambda: 0.5,
    "of shape": lambda model: lambda: model(torch.ones(3, 4)),
}


@pytest.mark.parametrize("text", CLOSURES)
def test_a_wrong_closure(text: str) -> None:
    model, optimizer, method = parts()
    sparsifier = steppe.sparsify(model, optimizer, method, total_steps=3)
    with pytest.raises(SteppeError, match=text):
        sparsifier.step(CLOSURES[text](model))


ACCURACIES: dict[str, Any] = {
    "got 60": 60,
    "got nan": float("nan"),
    "got 'most'": "most",
    "of shape \\(2,\\)": torch.ones(2),
}


@pytest.mark.parametrize("text", ACCURACIES)
def test_a_wrong_accuracy(text: str) -> None:
    with pytest.raises(SteppeError, match=f"in \\[0, 1\\]; {text}|fraction.*{text}"):
        outcome((torch.ones((), requires_grad=True), ACCURACIES[text]))


@pytest.mark.parametrize("accuracy", [0.75, torch.tensor(0.75), torch.tensor([0.75])])
def test_an_accuracy_may_be_a_number(accuracy: Any) -> None:
    loss, found = outcome((torch.ones((), requires_grad=True), accuracy))
    assert float(loss.detach()) == 1.0
    assert found is not None
    assert float(found) == 0.75


def test_no_closure() -> None:
    with pytest.raises(SteppeError, match="got nothing"):
        steppe.sparsify(*parts(), total_steps=3).step()


def test_all_weights_outside_of_the_optimizer_are_named_with_a_pattern_that_works() -> None:
    blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4)) for _ in range(9))
    model = nn.ModuleDict({"stem": nn.Linear(4, 4), "blocks": blocks, "head": nn.Linear(4, 2)})
    method = steppe.methods.gmp(sparsity=0.5)
    for held, way_out in (
        (model["head"], "include=['head']"),
        (model["blocks"], "include=['blocks.*']"),
        (nn.ModuleList([model["stem"], model["blocks"]]), "exclude=['head']"),
    ):
        optimizer = torch.optim.SGD(held.parameters(), lr=0.1)
        with pytest.raises(SteppeError, match="every prunable weight must be in the") as refused:
            steppe.sparsify(model, optimizer, method, 3)
        held_by_it = {id(p) for p in held.parameters()}
        _, weights = steppe.prunable(model)
        outside = [n for n, p in weights.items() if id(p) not in held_by_it]
        assert f"{len(outside)} of 20 that are not" in str(refused.value)
        assert refused.value.way_out.endswith(way_out)
        patterns = eval(f"dict({way_out})")
        steppe.sparsify(model, optimizer, method, 3, **patterns)


def test_an_optimizer_of_another_model_is_said() -> None:
    model, other = nn.Linear(4, 2), nn.Linear(4, 2)
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match=r"from model\.parameters\(\)"):
        steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.5), 3)


@pytest.mark.parametrize("largest", [0.0, -1.0, float("nan")])
def test_a_clipping_that_would_turn_the_gradient(largest: float) -> None:
    model = nn.Linear(4, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(SteppeError, match="clip_grad_norm is a number above 0"):
        steppe.sparsify(
            model, optimizer, steppe.methods.gmp(sparsity=0.5), 3, clip_grad_norm=largest
        )


def test_frozen_layers_outside_of_the_optimizer_are_no_mistake() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    optimizer = torch.optim.SGD(model[1].parameters(), lr=0.1)
    sparsifier = steppe.sparsify(model, optimizer, steppe.methods.gmp(sparsity=0.5), 3)
    assert [layer.name for layer in sparsifier.layers] == ["1.weight"]
    assert any("0.weight" in note for note in sparsifier.notes)


def test_none_is_nothing_given():
    """As in a configuration that says nothing of them."""
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    given = dict.fromkeys(("groups", "include", "exclude", "options"))
    s = steppe.sparsify(net, optimizer, steppe.methods.gmp(sparsity=0.5), 2, **given)
    assert len(s.layers) == 2
