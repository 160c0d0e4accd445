"""steppe recipes, as a user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from steppe import recipes
from steppe.cli.main import main
from steppe.experiment import base
from steppe.experiment.read import read_plain


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
    (tmp_path / "gmp.yaml").write_text("mine")
    run("recipes", "--copy", "cifar10-small/safe", "--to", tmp_path, code=2)
    (line,) = capsys.readouterr().err.splitlines()
    assert "another folder: --to DIR" in line
    assert [file.read_text() for file in tmp_path.iterdir()] == ["mine"], "nothing was copied"


def test_a_base_that_two_recipes_share_is_copied_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("bccd-halp", "bccd-adasap", "bccd-adasap"):
        run("recipes", "--copy", f"detection/{name}", "--to", tmp_path)
    said = capsys.readouterr().err
    assert said.count("bccd.yaml") == 1
    assert said.endswith("nothing to copy: the same files are there already\n")
    assert {p.stem for p in tmp_path.iterdir()} == {"bccd", "bccd-halp", "bccd-adasap"}


@pytest.mark.parametrize("name", recipes.names())
def test_a_copy_is_the_recipe_whatever_it_stands_on(name: str, tmp_path: Path) -> None:
    """Also where a recipe and its base in another folder have one name."""
    of_folder = name.partition("/")[0] if "/" in name else name
    for asked, where in ((name, tmp_path / "one"), (of_folder, tmp_path / "all")):
        recipes.copy(asked, where)
        own, last = recipes.path_of(name), f"{name.rpartition('/')[2]}.yaml"
        copies = [file for file in where.rglob(last) if file.read_bytes() == own.read_bytes()]
        (copy,) = copies
        data, _ = read_plain(copy)
        there = base.whole(data, copy.parent)
        assert there == base.whole(read_plain(own)[0], own.parent)


def test_one_recipe_is_shown_as_it_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("recipes", "detection/bccd")
    shown = capsys.readouterr()
    assert shown.out == recipes.path_of("detection/bccd").read_text()
    assert shown.err == ""
    run("recipes", "digits", "--json")
    assert json.loads(capsys.readouterr().out)["text"] == recipes.path_of("digits").read_text()


def test_recipes_of_a_package_that_is_reached_by_a_link_are_copied(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of an environment whose lib64 is a link."""
    (tmp_path / "link").symlink_to(recipes.FOLDER)
    monkeypatch.setattr(recipes, "FOLDER", tmp_path / "link")
    written = recipes.copy("halp/voc-ssd512", tmp_path / "mine")
    assert tmp_path / "mine/halp/voc-ssd512.yaml" in written
    assert len(written) > 1, "it has a base"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--copy", "digit"], "did you mean digits?"),
        (["--copy", "../../pyproject"], "unknown recipe"),
        (["--copy", "digits", "--to", "file/inside"], "must be writable"),
        (["--to", "somewhere"], "--copy NAME"),
        (["digit"], "did you mean digits?"),
        (["detection"], "detection/bccd"),
        (["digits", "--to", "somewhere"], "--copy digits"),
        (["digits", "--copy", "digits"], "--copy digits"),
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
