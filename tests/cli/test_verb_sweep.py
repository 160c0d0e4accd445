"""``steppe sweep``: what it prints, its exit code, what the best line does."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from steppe.cli.main import main

RECIPE = """
model: mlp
data: {name: digits, train_size: 100, test_size: 50}
method: {name: gmp, sparsity: 0.5}
train: {epochs: 1, batch_size: 50, lr: 0.1}
device: cpu
"""


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_table_picture_and_a_line_that_trains_the_best(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    given = ["--vary", "train.lr=1e20,0.1", "--set", "method.sparsity=0.8", "--held-out"]
    run("sweep", recipe, *given, "--out", out, "--json", code=1)
    shown = capsys.readouterr()
    result = json.loads(shown.out)
    assert result["best"] == {"train.lr": 0.1}
    assert result["quality"] == "accuracy on the validation images"
    assert "lr=1e+20 failed: the loss must stay finite" in shown.err
    assert "1 run of 2 failed" in shown.err
    record = json.loads((out / "lr=0.1" / "record.json").read_text())
    assert record["evaluated_on"] == "validation"
    assert record["sparsity_asked"] == 0.8
    assert (out / "sweep.svg").read_text().count("</svg>") == 1
    run(*shlex.split(result["command"])[1:], "--quiet")
    best = json.loads((tmp_path / "out-best" / "record.json").read_text())
    assert (best["recipe"]["train"]["lr"], best["evaluated_on"]) == (0.1, "test")


@pytest.mark.parametrize(
    ("words", "given"),
    [
        ("did you mean lr", ["--vary", "train.lrs=0.1,0.2"]),
        ("varies something", []),
        ("keys of a recipe", ["--vary", "seed.x=1,2"]),
        ("--seeds takes each value once", ["--seeds", "0,0"]),
        ("--on ray", ["--seeds", "0,1", "--workers", "2"]),
    ],
)
def test_bad_input_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: str, given: list[str]
) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run("sweep", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--quiet", *given, code=2)
    assert words in (said := capsys.readouterr().err)
    assert len(said.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_started_again_it_says_what_is_done(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe, out = tmp_path / "recipe.yaml", tmp_path / "out"
    recipe.write_text(RECIPE)
    run("sweep", recipe, "--vary", "train.lr=0.1", "--out", out)
    said = capsys.readouterr().err
    assert "done already" not in said
    assert f"picture: {out}/sweep.svg" in " ".join(said.split())
    assert "Accuracy" not in said
    run("sweep", recipe, "--vary", "train.lr=0.1,0.2", "--out", out)
    assert "1 of 2 is done already" in capsys.readouterr().err
