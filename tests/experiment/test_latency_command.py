"""The way out of a table that lacks a recipe's network, followed to the letter."""

from __future__ import annotations

import shlex
from functools import partial
from pathlib import Path

import pytest
import torch

import steppe
from steppe import SteppeError
from steppe.cli import verb_latency
from steppe.cli.main import main
from steppe.experiment.channels import channels_of
from steppe.experiment.detection.recipe import DetectionRecipe, parse
from steppe.experiment.latency_command import check_table, command_of
from steppe.experiment.recipe import Recipe, load_recipe
from steppe.removal.latency_table import measure_table
from steppe.vision.detection.models import build


def detector(**channels: object) -> DetectionRecipe:
    plain = {
        "task": "detection",
        "data": {"name": "voc:x", "size": 64},
        "method": {"name": "halp", "sparsity": 0.2},
        "channels": {"target": "latency", "batch": 1, "round_to": 8, **channels},
        "device": "cpu",
    }
    return parse(plain)


def test_a_table_of_another_size_names_it_and_the_way_out_works(tmp_path, monkeypatch) -> None:
    def parameters(module, inputs):
        return float(sum(p.numel() for p in module.parameters())), 0.0, 0.0

    monkeypatch.setattr(verb_latency, "measure_table", partial(measure_table, timer=parameters))
    monkeypatch.chdir(tmp_path)

    def typed(line: str) -> None:
        with pytest.raises(SystemExit) as ended:
            main([*shlex.split(line)[1:], "--passes", "1", "--quiet"])
        assert not ended.value.code, line

    typed("steppe latency ssd_small --input-size 96 --classes 2 --batch 1 --out wrong.json")
    model, example = build("ssd_small", 2, (3, 64, 64)).eval(), torch.zeros(2, 3, 64, 64)
    with pytest.raises(
        SteppeError, match=r"wrong.json, .*another size \(64 x 64 here\)"
    ) as refused:
        channels_of(detector(table="wrong.json"), model, example, 2)
    command, _, then = str(refused.value.way_out).partition(", then --table ")
    assert command == command_of(detector(), (3, 64, 64), 2).to("OTHER.json")
    typed(command)
    channels = channels_of(detector(table=then), model, example, 2)
    assert channels is not None
    assert channels.cost.total({}) > 0


def test_a_network_that_its_name_does_not_tell_is_measured_in_a_run(tmp_path: Path) -> None:
    small = {"name": "digits", "train_size": 64, "test_size": 32}
    train = {"epochs": 1, "batch_size": 32, "bn_batches": 1}
    plain = {"model": "small-cnn", "data": small, "train": train, "device": "cpu"}
    steppe.train(plain | {"method": "dense"}, out=tmp_path / "dense")
    recipe = load_recipe(plain | {"method": "halp", "channels": {"target": "latency"}})
    assert command_of(recipe, (1, 8, 8), 10).network == "DENSE_RUN"
    started = {"name": "small-cnn", "weights": str(tmp_path / "dense")}
    of_run = load_recipe(recipe.plain() | {"model": started})
    line = f"steppe latency {tmp_path / 'dense'} --batch 1 --round-to 8 --out OTHER.json"
    assert command_of(of_run, (1, 8, 8), 10).to() == line
    larger = load_recipe(recipe.plain() | {"model": started, "data": small | {"size": 16}})
    assert command_of(larger, (1, 16, 16), 10).network == "DENSE_RUN", "that run has 8 x 8 pixels"


def test_a_table_that_is_not_there_is_refused_before_data_with_all_that_the_recipe_knows(tmp_path):
    recipe = load_recipe("halp/imagenet-resnet50")
    said = r"r50.json \(FileNotFoundError\).*microsoft/resnet-50 --input-size 224 --classes .*"
    said += r"--batch 256 --round-to 8 .*--channels-last --out r50.json"
    with pytest.raises(SteppeError, match=said):
        steppe.train(recipe, out=tmp_path / "run")
    without = recipe.model_copy(
        update={"channels": recipe.channels.model_copy(update={"table": None})}
    )
    with pytest.raises(SteppeError, match="got no table"):
        check_table(without, None)
    (tmp_path / "run").mkdir(exist_ok=True)
    (tmp_path / "run/record.json").write_text("{}")
    check_table(without, tmp_path / "run")  # finished: nothing is read any more
    check_table(Recipe(method="dense", channels={"target": "latency"}), None)
