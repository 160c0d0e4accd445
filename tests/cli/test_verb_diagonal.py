"""``steppe diagonal``: numbers, a picture and a page."""

import json

import pytest

from steppe.cli.main import main


def run(*arguments, code=0):
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


def test_writes_numbers_picture_and_page(tmp_path, capsys):
    small = ["--samples", "8", "--size", "12", "--support", "2", "--inits", "2", "--steps", "400"]
    run("diagonal", "--out", tmp_path, "--json", *small)
    shown = json.loads(capsys.readouterr().out)
    assert len(shown["best"]) == 16
    assert len(json.loads((tmp_path / "diagonal.json").read_text())["runs"]) == 4 * 4 * 8 * 2
    svg = (tmp_path / "diagonal.svg").read_text()
    assert svg.startswith('<svg xmlns="http://www.w3.org/2000/svg"')
    page = (tmp_path / "diagonal.html").read_text()
    assert page.count("<tr>") == 17
    assert "PILoT" in page


def test_a_rate_that_diverges_is_one_line(tmp_path, capsys):
    run("diagonal", "--out", tmp_path, "--rate", 1, "--steps", 300, code=2)
    assert not any(tmp_path.iterdir())
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


def test_an_impossible_problem_is_one_line(tmp_path, capsys):
    run("diagonal", "--out", tmp_path, "--samples", 200, code=2)
    assert "support <= samples < size" in capsys.readouterr().err
