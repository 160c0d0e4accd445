"""steppe recover and steppe prune --recover, as a user sees them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steppe.cli.main import main


def run(*arguments: Any, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture
def text(word_text: Path) -> list[Any]:
    return ["--calibration", word_text, "--samples", 8, "--window", 16, "--device", "cpu"]


def test_a_folder_of_prune_is_recovered(
    language_model: Path,
    word_text: Path,
    text: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pruned, out = tmp_path / "p", tmp_path / "r"
    method = ["--method", "wanda", "--sparsity", 0.5]
    run("prune", language_model, *method, *text, "--out", pruned)
    capsys.readouterr()
    asked = ["recover", pruned, *text, "--epochs", 2, "--out", out, "--json"]
    run(*asked, "--evaluate", word_text)
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "Wanda, recovered: 50.0" in shown.err
    assert "trained weights; kept in" in shown.err
    figures = [record[key]["perplexity"] for key in ("dense", "pruned", "sparse")]
    said = "perplexity {:.2f} dense, {:.2f} pruned, {:.2f} recovered".format(*figures)
    assert said in shown.err
    assert record["recipe"]["fit"]["lr"] == 3e-3
    run(*asked, "--evaluate", word_text)
    assert "finished before" in capsys.readouterr().err


def test_a_whole_model_is_recovered(
    language_model: Path, word_text: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pruned = tmp_path / "p"
    method = ["--method", "magnitude", "--sparsity", 0.5, "--device", "cpu"]
    run("prune", language_model, *method, "--out", pruned)
    capsys.readouterr()
    text = ["--calibration", word_text, "--window", 16, "--device", "cpu", "--evaluate", word_text]
    asked = ["recover", pruned, "--scope", "whole", *text, "--tokens", 1024, "--parts", 2]
    run(*asked, "--held-out", 0.05, "--lr", 1e-2, "--out", tmp_path / "o", "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    losses = record["early_stopping"]["held_out_loss"]
    best = record["early_stopping"]["best_part"]
    assert f"held-out windows {losses[0]:.4f} -> {losses[best]:.4f}" in shown.err
    figures = [record[key]["perplexity"] for key in ("dense", "pruned", "sparse")]
    assert "{:.2f} dense, {:.2f} pruned, {:.2f} recovered".format(*figures) in shown.err
    run(*asked, "--epochs", 3, "--out", tmp_path / "q", code=2)
    assert "--tokens 10M" in capsys.readouterr().err


def test_both_in_one_go(
    language_model: Path, text: list[Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["prune", language_model, "--method", "wanda", "--structure", "2:4", *text]
    run(*asked, "--recover", "--out", tmp_path / "o", "--json")
    shown = capsys.readouterr()
    record = json.loads(shown.out)
    assert "Wanda, recovered: 50.0" in shown.err
    assert "2:4 keeps the layers that a GPU runs faster" in record["gain"]
    assert record["gain"] not in " ".join(shown.err.split())
    run(
        "evaluate",
        tmp_path / "o",
        "--on",
        "perplexity",
        "--text",
        text[1],
        "--window",
        16,
        "--device",
        "cpu",
    )
    assert "perplexity" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--train", "norm"], "norms"),
        (["--dense", "nowhere/at/all"], "a folder with config.json"),
        (["--regrow"], "--regrow"),
    ],
)
def test_bad_input_is_one_line(
    flags: list[str],
    said: str,
    language_model: Path,
    text: list[Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run("recover", language_model, *text, "--out", tmp_path / "o", *flags, code=2)
    shown = capsys.readouterr().err
    assert said in shown
    assert len(shown.strip().splitlines()) == 1
    assert not (tmp_path / "o").exists()


def test_a_plan_is_of_the_pruning_alone(
    language_model: Path, text: list[Any], capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["plan", language_model, "--method", "wanda", "--sparsity", 0.5, *text]
    run(*asked, "--recover", code=2)
    assert "leave it out" in capsys.readouterr().err
