"""steppe train MODEL: flags of a language model, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe.cli.main import main
from steppe.cli.training import TRAININGS
from steppe.core.text import read_yaml
from steppe.experiment.tasks import TASKS


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def small(model: Path, text: Path, out: Path) -> list[object]:
    return [
        "train", model, "--method", "admm", "--sparsity", 0.5, "--data", text, "--window", 16,
        "--tokens", 512, "--batch-size", 4, "--lr", 1e-3, "--device", "cpu", "--out", out,
    ]  # fmt: skip


def test_a_model_in_the_place_of_a_recipe(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    more = ["--evaluate", word_text, "--penalty", "0.1", "--set", "train.parts=2", "--json"]
    run(*small(language_model, word_text, out), *more)
    said = capsys.readouterr()
    printed = json.loads(said.out)
    assert printed["sparsity_reached"] == 0.5
    assert "perplexity" in said.err
    assert "tokens/s" in said.err
    recipe = read_yaml((out / "recipe.yaml").read_text())
    assert recipe["method"]["penalty"] == 0.1
    assert recipe["train"]["parts"] == 2
    # the run's own recipe goes on with it: there is nothing left to do
    run("train", out / "recipe.yaml", "--out", out)
    assert "finished before" in capsys.readouterr().err


def test_flags_of_another_task_are_refused(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*small(language_model, word_text, tmp_path / "a"), "--train-size", 5, code=2)
    assert "--train-size is for training of task image" in capsys.readouterr().err
    run("train", "digits", "--tokens", "5M", code=2)
    assert "--tokens is for training of task causal_lm" in capsys.readouterr().err
    run("train", language_model, "--method", "gmp", "--sparsity", 0.5, code=2)
    assert "--data TEXT" in capsys.readouterr().err


def test_every_task_has_its_flags() -> None:
    assert set(TRAININGS) == set(TASKS)
