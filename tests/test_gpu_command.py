"""``make gpu``: what it says without a GPU, its plan, and its record, by stages of the test."""

from __future__ import annotations

import json

import gpu
import pytest
import torch
from gpu import PLAN, Stage


def test_without_a_gpu_one_line_says_so(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main(["--record", str(tmp_path / "gpu.json")]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("no GPU here")
    assert not (tmp_path / "gpu.json").exists()


def test_the_plan_takes_under_nine_minutes():
    assert [stage.name for stage in PLAN] == ["tests", "products", "step", "recipe"]
    # importing, and the last piece of work of a stage that was begun in time
    assert sum(stage.seconds for stage in PLAN) + 25 < gpu.LIMIT


@pytest.mark.parametrize("broken", [False, True])
def test_the_record_names_the_hardware_and_every_stage(monkeypatch, capsys, tmp_path, broken):
    moments = iter(range(0, 100, 7))
    written = []

    def second(seconds):
        written.append(json.loads(out.read_text()))
        if broken:
            raise ValueError("out of memory")
        return {"rows": [1]}

    out = tmp_path / "records" / "gpu.json"
    out.parent.mkdir()
    stages = [
        Stage("first", 20, lambda seconds: {"given": seconds}),
        Stage("second", 30, second),
        Stage("third", 10, lambda seconds: {}),
    ]
    record = gpu.run(stages, out, {"gpu": "a GPU"}, clock=lambda: next(moments))
    assert record == json.loads(out.read_text())
    assert record["gpu"] == "a GPU"
    assert [*written[0]["stages"]] == ["first"], "what is done is written at once"
    assert record["stages"]["first"] == {"seconds": 7, "of_seconds": 20, "given": 20}
    result = {"failed": "ValueError: out of memory"} if broken else {"rows": [1]}
    assert record["stages"]["second"] == {"seconds": 7, "of_seconds": 30} | result
    assert record["stages"]["third"] == {"seconds": 7, "of_seconds": 10}
    assert len(capsys.readouterr().out.splitlines()) == 3


@pytest.mark.parametrize("failed", [False, True])
def test_a_failure_of_a_stage_is_the_commands(monkeypatch, tmp_path, failed):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(gpu, "hardware", lambda: {"gpu": "a GPU"})
    result = {"failed": "2 tests"} if failed else {}
    monkeypatch.setattr(gpu, "PLAN", (Stage("tests", 1, lambda seconds: result),))
    assert gpu.main(["--record", str(tmp_path / "gpu.json")]) == int(failed)


def test_a_command_that_fails_or_takes_too_long_is_said():
    assert gpu.command(["json.tool", "--help"], 60) == ""
    assert "error" in gpu.command(["json.tool", "--unknown"], 60)
    assert "not done after" in gpu.command(["http.server", "0", "--bind", "127.0.0.1"], 0.2)


def test_products_and_steps_are_measured(monkeypatch):
    """On the processor, with times of the test: that what a GPU is to run does run."""

    def cuda_turns(works):
        assert all(work() is not None for work in works.values())
        return {name: [1.0] * 9 for name in works}

    monkeypatch.setattr(gpu, "cuda_turns", cuda_turns)
    row = gpu.product(gpu.pruned((64, 128), 0.7, "cpu"), 2)
    assert {*row["ms"]} >= {"dense", "bits"}
    assert row["difference"] < 2**-6
    assert 0.3 < row["bytes_over_dense"] < 0.7
    monkeypatch.setattr(gpu, "in_turns", lambda works, cuda: [[w() or 1.0] * 9 for w in works])
    assert gpu.step(1, "cpu", batch=4) == {"plain_ms": 1.0, "safe_ms": 1.0, "low": 1.0}


def test_the_recipe_of_the_plan_exists():
    from steppe.experiment.recipe import load_recipe

    assert load_recipe("digits").train.epochs == 60
