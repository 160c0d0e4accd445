"""steppe recipes, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe import recipes
from steppe.cli.main import main


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_the_list_names_every_recipe(capsys: pytest.CaptureFixture[str]) -> None:
    run("recipes")
    shown = capsys.readouterr().out
    assert all(name in shown for name in recipes.names())


def test_the_list_as_json_says_what_each_is(capsys: pytest.CaptureFixture[str]) -> None:
    run("recipes", "--json")
    listed = json.loads(capsys.readouterr().out)["recipes"]
    assert list(listed) == recipes.names()
    assert all(len(about) > 20 for about in listed.values())


def test_one_recipe_is_copied_with_the_one_it_stands_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("recipes", "--copy", "cifar10-small/safe", "--to", tmp_path / "mine", "--json")
    copied = [tmp_path / "mine" / name for name in ("safe.yaml", "gmp.yaml")]
    assert json.loads(capsys.readouterr().out) == {"copied": [str(file) for file in copied]}
    for file in copied:
        assert file.read_bytes() == recipes.path_of(f"cifar10-small/{file.stem}").read_bytes()


def test_a_folder_is_copied_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    run("recipes", "--copy", "pilot-small/")
    copied = {file.stem for file in (tmp_path / "pilot-small").iterdir()}
    wanted = {n.partition("/")[2] for n in recipes.names() if n.startswith("pilot-small/")}
    assert copied == wanted
    assert capsys.readouterr().err.count("written:") == len(wanted)


def test_nothing_is_replaced(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "digits.yaml").write_text("mine")
    run("recipes", "--copy", "digits", "--to", tmp_path, code=2)
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert (tmp_path / "digits.yaml").read_text() == "mine"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--copy", "digit"], "did you mean digits?"),
        (["--copy", "../../pyproject"], "unknown recipe"),
        (["--copy", "digits", "--to", "file/inside"], "must be writable"),
        (["--to", "somewhere"], "--copy NAME"),
    ],
)
def test_what_cannot_be_copied_is_one_line(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    run("recipes", *arguments, code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert said in lines[0]
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


def test_train_takes_a_name_and_a_file_of_that_name_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    less = ["--epochs", "1", "--train-size", "256", "--quiet", "--json"]
    run("train", "digits", *less, "--out", "packaged")
    packaged = json.loads(capsys.readouterr().out)
    assert packaged["recipe"]["model"]["name"] == "lenet-300-100"
    (tmp_path / "digits").write_text("{model: small-cnn, data: digits, method: dense}")
    run("train", "digits", *less, "--out", "own")
    assert json.loads(capsys.readouterr().out)["recipe"]["model"]["name"] == "small-cnn"


def test_a_name_that_train_does_not_know_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    run("train", "digit", code=2)
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "steppe recipes" in lines[0]
