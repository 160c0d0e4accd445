"""What a pruning may be asked for: one declaration for Python and the command line."""

import dataclasses
import inspect

import pytest
import torch
import typer
from pydantic import ValidationError

from steppe import SteppeError, methods, prune
from steppe.cli import verb_plan, verb_prune
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.llm.prune_config import PruneConfig


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"sampels": 3}, r"unknown option of prune; got 'sampels'.*did you mean samples"),
        ({"samples": "many"}, r"option samples of prune must have its type; got 'many'"),
        ({"evaluate": "text.txt"}, r"option evaluate of prune"),
        ({"reconstruction": {"epoch": 3}}, r"option of the reconstruction; got 'epoch'.*epochs"),
        ({"reconstruction": {"epochs": 0}}, r"at least one epoch"),
        ({"reconstruction": 3}, r"option reconstruction of prune"),
    ],
)
def test_what_is_refused(options, expected, tmp_path):
    with pytest.raises(SteppeError, match=expected) as refused:
        prune("no-model", methods.wanda(sparsity=0.5), "text.txt", tmp_path / "out", **options)
    assert "\n" not in str(refused.value)


def test_it_does_not_change():
    config = PruneConfig.of(include=["*.q_proj"], calibration=torch.zeros(2, 4).long())
    assert config.include == ("*.q_proj",)
    with pytest.raises(ValidationError, match="frozen"):
        config.samples = 3


def test_a_reconstruction_may_be_a_mapping():
    config = PruneConfig.of(reconstruction={"epochs": 3, "lr": 0.1})
    assert config.reconstruction == ReconstructionConfig(epochs=3, lr=0.1)


def test_former_names():
    config = ReconstructionConfig(epochs=3)
    with pytest.warns(DeprecationWarning, match="fit= is called reconstruction= now"):
        assert PruneConfig.of(fit=config).reconstruction is config
    with pytest.warns(DeprecationWarning, match="FitConfig is called ReconstructionConfig now"):
        from steppe.engine.blockwise.reconstruct import FitConfig
    assert FitConfig is ReconstructionConfig


def test_every_field_says_what_it_is():
    assert all(field.description for field in PruneConfig.model_fields.values())
    for field in dataclasses.fields(ReconstructionConfig):
        assert field.metadata["description"], field.name


@pytest.mark.parametrize("verb", [verb_prune, verb_plan])
def test_the_commands_options_are_made_from_the_fields(verb):
    app = typer.Typer()
    verb.add(app)
    parameters = inspect.signature(app.registered_commands[0].callback).parameters
    fields = PruneConfig.model_fields.keys() - {"reconstruction"}
    assert fields | {"epochs", "warmup_epochs", "lr", "batch_size"} <= parameters.keys()
    for name in fields - {"out"}:
        option = parameters[name].annotation.__metadata__[0]
        assert option.help == PruneConfig.model_fields[name].description
