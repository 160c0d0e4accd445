"""What a recipe may hold; anything else is one line that names the place."""

from __future__ import annotations

from typing import Any

import pytest

import steppe
from steppe.core.errors import SteppeError
from steppe.experiment.recipe import parse, read


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({7: 1}, "7"),
        (
            {"data": {"name": "digits", "label_noise": {"rate": 0.1, "kinds": 1}}},
            "label_noise.kind",
        ),
        ({"data": {"name": "digits", 7: 1}}, "data"),
        ({"train": {"lr": float("nan")}}, "train.lr"),
        ({"train": {"lr": float("inf")}}, "train.lr"),
        ({"seed": 10**30}, "seed"),
    ],
)
def test_odd_keys_and_numbers_are_one_line(change: dict[Any, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said) as refused:
        parse({"method": {"name": "gmp", "sparsity": 0.5}} | change)
    assert "\n" not in str(refused.value)


def with_groups(*groups: Any, **train: Any) -> dict[str, Any]:
    return {
        "model": "small-cnn",
        "data": {"name": "digits", "train_size": 64, "test_size": 32},
        "method": {"name": "gmp", "sparsity": 0.5},
        "train": {"epochs": 1, "batch_size": 32, "bn_batches": 0, "optimizer_groups": [*groups]}
        | train,
        "device": "cpu",
    }


def test_a_recipe_gives_some_parameters_options_of_their_own() -> None:
    record = steppe.train(with_groups({"kind": "norm, bias", "weight_decay": 0}))
    assert "optimizer group 1 (norm, bias): weight_decay 0 for 7 tensors" in record["notes"]
    again = parse(record["recipe"])
    assert again.train.config() == parse(record["recipe"]).train.config()
    assert again.train.optimizer_groups == ({"kind": "norm, bias", "weight_decay": 0},)


def test_a_recipe_without_groups_is_the_text_that_it_was() -> None:
    assert "optimizer_groups" not in parse(with_groups()).plain()["train"]


@pytest.mark.parametrize(
    ("group", "said"),
    [
        (
            {"kind": "norm", "weight_dekay": 0},
            "SGD for a group.*did you mean weight_decay",
        ),
        ({"kind": "norm", "weight_decay": -1}, "Invalid weight_decay value"),
        ({"kinds": "norm", "weight_decay": 0}, "has params or a kind"),
    ],
)
def test_a_wrong_group_is_refused_before_data_are_read(group: dict[str, Any], said: str) -> None:
    with pytest.raises(SteppeError, match=said):
        parse(with_groups(group)).train.config()


def test_muon_and_the_optimizer_beside_it_are_divided_each() -> None:
    groups = ({"params": "linear", "lr": 0.01}, {"kind": "norm", "weight_decay": 0})
    record = steppe.train(with_groups(*groups, optimizer="muon", lr=0.02))
    assert any("group 2 (norm): weight_decay 0 for 6 tensors" in note for note in record["notes"])


def test_a_named_method_takes_a_budget_with_options() -> None:
    """It was read as a method whose parts are spelt out, and refused its sparsity."""
    budget = {"name": "valley", "search": "authors"}
    recipe = parse({"method": {"name": "polarreg", "sparsity": 0.5, "budget": budget}})
    again = parse(recipe.plain())
    for made in (recipe.build_method(), again.build_method()):
        assert made == steppe.methods.polarreg(0.5, budget=budget)
    assert again.plain() == recipe.plain()


def test_a_key_that_is_there_twice_is_one_line(tmp_path):
    (tmp_path / "twice.yaml").write_text("method: safe\ntrain: {lr: 0.1, lr: 0.2}\n")
    with pytest.raises(SteppeError, match=r"a recipe must be YAML.*the key lr is there twice"):
        read(tmp_path / "twice.yaml")


def test_an_option_that_training_does_not_use_is_refused() -> None:
    """What a language model's blocks start from is nothing to a training of the whole network."""
    recipe = parse({"method": {"name": "safe", "sparsity": 0.5, "start": "obs_update"}})
    with pytest.raises(SteppeError, match="start obs_update, which changes nothing"):
        recipe.build_method()
    recipe = parse({"method": {"name": "safe", "sparsity": 0.5, "start": None, "penalty": 0.3}})
    assert recipe.build_method().coupling.to_dict()["penalty"] == 0.3
