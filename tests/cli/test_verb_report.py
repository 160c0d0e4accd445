"""steppe report: finished runs and what was measured of them, as page, Markdown and JSON."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from steppe.cli.main import main


def run(*arguments: object, code: int = 0) -> None:
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    assert ended.value.code == code


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """A dense and a pruned network of digits, measured."""
    folder = tmp_path_factory.mktemp("runs")
    flags = ["--epochs", 3, "--lr", 0.1, "--quiet", "--data", "digits"]
    run("train", "--method", "dense", *flags, "--out", folder / "dense")
    run("train", "--method", "gmp", "--sparsity", 0.9, *flags, "--out", folder / "gmp")
    few = ["--corruptions", "fog,spatter", "--severities", 3, "--steps", 2, "--quiet"]
    for name in ("dense", "gmp"):
        run("evaluate", folder / name, "--on", "corruptions,attacks", *few)
    run("evaluate", folder / "gmp", "--beside", folder / "dense", "--quiet")
    run("evaluate", folder / "gmp", "--on", "landscape", "--plane-points", 3, "--quiet")
    return [folder / "dense", folder / "gmp"]


def test_every_format_holds_the_same_numbers(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run("report", *runs, "--out", tmp_path / "r.html", "--json", "--quiet")
    shown = json.loads(capsys.readouterr().out)
    run("report", *runs, "--out", tmp_path / "r.md", "--title", "Two runs")
    run("report", *runs, "--out", tmp_path / "r.json")
    held = json.loads((tmp_path / "r.json").read_text())
    assert held["rows"] == shown["rows"]
    (gmp,) = [row for row in held["rows"] if row["method"] == "gmp"]
    record = json.loads((runs[1] / "record.json").read_text())
    assert gmp["accuracy"]["mean"] == record["sparse"]["accuracy"]
    kept = {e["on"]: e for e in json.loads((runs[1] / "evaluations.json").read_text())}
    assert gmp["corrupted 3"]["mean"] == kept["corruptions"]["result"]["accuracy"]["fog"]["3"]
    assert gmp["linf 1/255"]["mean"] in kept["attacks"]["result"]["accuracy"]["linf"].values()
    assert gmp["disagree"]["mean"] == kept["clean"]["result"]["beside"]["disagree"]
    page, text = (tmp_path / "r.html").read_text(), (tmp_path / "r.md").read_text()
    assert text.startswith("# Two runs\n")
    for words in (f"{100 * gmp['accuracy']['mean']:.2f}", kept["landscape"]["command"]):
        assert words in page
        assert words in text
    for figure in ("heatmap", "attacked", "landscape_line", "landscape_plane"):
        assert f'<figure id="{figure}"' in page
    assert "data:image/png;base64," in page


def test_the_commands_in_it_measure_the_same_again(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = Path(shutil.copytree(runs[1], tmp_path / "gmp"))
    before = json.loads((copy / "evaluations.json").read_text())
    for entry in before:
        run(*entry["command"].replace(str(runs[1]), str(copy)).split()[1:], "--quiet")
    after = json.loads((copy / "evaluations.json").read_text())
    assert [e["result"] for e in after] == [e["result"] for e in before]


def test_train_ends_with_a_report(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    for folder in runs:
        assert '<figure id="curves"' in (folder / "report.html").read_text()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--format", "pdf"], "html, md or json"),
        (["--out", "there.txt"], "html, md or json"),
        (["--out", "."], "names the report's file"),
    ],
)
def test_wrong_flags_are_one_line(
    runs: list[Path], more: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run("report", runs[0], *more, code=2)
    said = capsys.readouterr().err.strip()
    assert words in said
    assert "\n" not in said


def test_an_unfinished_run_is_named_with_the_command_that_ends_it(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun = tmp_path / "begun"
    begun.mkdir()
    shutil.copy(runs[1] / "recipe.yaml", begun)
    run("report", begun, code=2)
    said = capsys.readouterr().err
    assert f"{begun}, which is not finished" in said
    assert f"steppe train {begun}/recipe.yaml --out {begun} goes on" in said
    run("report", tmp_path / "nowhere", code=2)
    said = capsys.readouterr().err
    assert "nowhere, which does not exist" in said
    assert "Errno" not in said


def test_what_is_no_run_leaves_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run("report", tmp_path / "none", "--out", tmp_path / "r.html", code=2)
    assert "record.json" in capsys.readouterr().err
    assert not (tmp_path / "r.html").exists()


def test_of_several_runs_one_that_is_not_finished_is_left_out_with_a_note(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    begun, out = tmp_path / "begun", tmp_path / "r.json"
    begun.mkdir()
    shutil.copy(runs[1] / "recipe.yaml", begun)
    run("report", *runs, begun, "--out", out)
    said = " ".join(capsys.readouterr().err.split())
    assert f"note: {begun} is not finished and left out; steppe train" in said
    with_it = json.loads(out.read_text())["rows"]
    run("report", *runs, "--out", out, "--quiet")
    assert json.loads(out.read_text())["rows"] == with_it
