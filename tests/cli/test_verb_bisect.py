"""``steppe bisect``: STR gets as sparse by itself as it was asked to be."""

import json

import pytest

from steppe.cli.main import main
from steppe.core.errors import SteppeError
from steppe.experiment.recipe import parse
from steppe.experiment.tasks.image import ImageTask
from steppe.experiment.varied import varied

RECIPE = """
data: {name: digits, train_size: 400}
model: mlp
method: {name: soft_threshold, sparsity: 0.6, start: -4.0}
train: {epochs: 6, lr: 0.1, batch_size: 50, eval_every: 0}
"""


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_the_weight_decay_of_a_sparsity(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    where = [tmp_path / "recipe.yaml", "--out", tmp_path / "runs", "--tolerance", 0.05]
    run("bisect", *where, "--low", 1e-5, "--high", 0.3, "--json", "--quiet")
    shown = json.loads(capsys.readouterr().out)
    assert abs(shown["nearest"]["sparsity"] - 0.6) <= 0.05
    values = sorted(shown["runs"], key=lambda row: row["value"])
    assert [row["sparsity"] for row in values] == sorted(row["sparsity"] for row in values)
    # again: everything is there
    run("bisect", *where, "--low", 1e-5, "--high", 0.3, "--json", "--quiet")
    assert json.loads(capsys.readouterr().out) == shown


def test_quiet_says_nothing_and_data_are_read_once(tmp_path, capsys, monkeypatch):
    """Though the data have something to say: a class of which there is no image."""
    read = []
    load = ImageTask.data

    def counted(recipe, **options):
        read.append(recipe.data)
        return load(recipe, **options)

    monkeypatch.setattr(ImageTask, "data", staticmethod(counted))
    recipe = RECIPE.replace("train_size: 400", "train_size: 400, num_classes: 12")
    (tmp_path / "recipe.yaml").write_text(recipe)
    where = [tmp_path / "recipe.yaml", "--tries", 2, "--tolerance", 1]
    ends = ["--low", 1e-5, "--high", 0.3]
    run("bisect", *where, *ends, "--out", tmp_path / "quiet", "--quiet")
    assert capsys.readouterr().err == ""
    run("bisect", *where, *ends, "--out", tmp_path / "loud")
    assert "note: train: no image of 2 of 12 classes" in capsys.readouterr().err
    read.clear()
    varied = ["--option", "train.lr", "--tolerance", 1e-6, "--out", tmp_path / "two", "--quiet"]
    run("bisect", *where[:3], *varied, "--low", 0.01, "--high", 0.3, code=2)
    assert len(read) == 1
    read.clear()
    varied[1] = "data.train_size"
    run("bisect", *where[:3], *varied, "--low", 100, "--high", 200, code=2)
    assert [one.train_size for one in read] == [100, 200], "other data are read"


def test_what_is_not_reached_is_an_error_after_the_numbers(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    where = [tmp_path / "recipe.yaml", "--out", tmp_path / "runs", "--tries", 2, "--json"]
    run("bisect", *where, "--tolerance", 1e-6, "--low", 1e-5, "--high", 0.3, "--quiet", code=2)
    shown = capsys.readouterr()
    assert json.loads(shown.out)["reached"] is False
    assert "more --tries" in shown.err


def test_what_is_varied_must_be_there():
    recipe = parse({"data": "digits", "method": {"name": "lasso", "sparsity": 0.5}})
    assert varied(recipe, "method.alpha", 0.25).build_method().coupling.alpha == 0.25
    with pytest.raises(SteppeError, match=r"did you mean train\.weight_decay"):
        varied(recipe, "train.weight_decy", 0.25)
    with pytest.raises(SteppeError, match="names a number"):
        varied(recipe, "nowhere.alpha", 0.25)


def test_a_number_of_a_group_can_be_varied():
    """STR's sparsity is found by the weight decay of its thresholds."""
    groups = [{"kind": "norm", "weight_decay": 0}, {"kind": "threshold", "weight_decay": 1e-5}]
    method = {"name": "soft_threshold", "sparsity": 0.5}
    recipe = parse({"data": "digits", "method": method, "train": {"optimizer_groups": groups}})
    made = varied(recipe, "train.optimizer_groups.1.weight_decay", 0.25)
    assert [g["weight_decay"] for g in made.train.optimizer_groups] == [0, 0.25]
    for wrong in ("train.optimizer_groups.2.weight_decay", "train.optimizer_groups.weight_decay"):
        with pytest.raises(SteppeError, match="names a number"):
            varied(recipe, wrong, 0.25)


def test_the_former_name_is_told_and_works(tmp_path, capsys):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    run("reach", tmp_path / "recipe.yaml", "--out", tmp_path / "runs", "--low", -1, code=2)
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 2
    assert "now called steppe bisect" in lines[0]
    assert "low -1" in lines[1]
