"""The choice of precision is kept in the run's folder, in its record, and on the screen."""

import json

import pytest

import steppe
from steppe import SteppeError
from steppe.engine import precision
from steppe.experiment.recipe import load_recipe

SMALL = {
    "model": "small-cnn",
    "data": {"name": "digits", "train_size": 64, "test_size": 32},
    "method": {"name": "gmp", "sparsity": 0.5},
    "train": {"epochs": 1, "batch_size": 32, "bn_batches": 0},
    "device": "cpu",
}


def machine(monkeypatch, plain, last, low, both):
    """A machine on which a step takes so many milliseconds; asked for nothing else it fails."""

    def turns(works, **_):
        if len(works) == 1:
            return [[10.0**9]]
        return [[ms] for ms in (plain, last, low, both)][: len(works)]

    monkeypatch.setattr(precision, "turns", turns)


def test_what_is_faster_here_is_taken_said_and_kept(tmp_path, monkeypatch, capsys):
    machine(monkeypatch, 10, 8, 8, 4)
    record = steppe.train(SMALL, out=tmp_path / "run", quiet=False)
    said = "precision: bf16, channels last: 4 ms a step; float32, contiguous: 10 ms\n"
    assert said in capsys.readouterr().err
    assert record["precision"]["mixed_precision"] == "bf16"
    assert record["precision"]["channels_last"] is True
    assert record["precision"]["milliseconds"]["float32, contiguous"] == 10
    assert json.loads((tmp_path / "run/precision.json").read_text()) == record["precision"]
    assert record["recipe"]["train"]["mixed_precision"] == "auto"


def test_a_run_that_goes_on_computes_as_it_began(tmp_path, monkeypatch):
    machine(monkeypatch, 10, 8, 8, 4)
    first = steppe.train(SMALL, out=tmp_path / "run")
    (tmp_path / "run/record.json").unlink()
    machine(monkeypatch, 1, 10, 10, 10)
    again = steppe.train(SMALL, out=tmp_path / "run")
    assert again["precision"] == first["precision"]
    (tmp_path / "run/record.json").unlink()
    (tmp_path / "run/precision.json").write_text("{")
    with pytest.raises(SteppeError, match="as it was written"):
        steppe.train(SMALL, out=tmp_path / "run")


def test_a_recipe_that_insists_is_told_the_cost(tmp_path, monkeypatch, capsys):
    machine(monkeypatch, 107, 107, 818, 818)
    train = SMALL["train"] | {"mixed_precision": "bf16"}
    record = steppe.train(SMALL | {"train": train}, quiet=False)
    assert record["precision"]["mixed_precision"] == "bf16"
    assert "7.6 times as long as float32, contiguous takes here" in capsys.readouterr().err


def test_no_is_a_word_in_yaml_too():
    for said in ("no", False):
        train = {"mixed_precision": said}
        assert load_recipe(SMALL | {"train": train}).train.config().mixed_precision == "no"
    config = load_recipe(SMALL).train.config()
    assert (config.mixed_precision, config.channels_last) == ("no", False)
