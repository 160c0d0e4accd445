"""One line of progress: how much is done, and how long it will take."""

from __future__ import annotations

from pathlib import Path

import pytest

from steppe.cli import progress_line
from steppe.cli.main import main
from steppe.cli.progress_line import ProgressLine


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(progress_line.time, "monotonic", lambda: now[0])
    return now


def test_a_log_file_gets_a_line_now_and_then(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressLine(quiet=False) as line:
        for done in range(21):
            line("this", done, 20)
            clock[0] += 2
        line("that", 0, 3, "MB")
    said = capsys.readouterr().err.splitlines()
    assert said == [
        "this: 0 of 20 windows",
        "this: 5 of 20 windows, 0.5 windows/s, about 30 s left",
        "this: 10 of 20 windows, 0.5 windows/s, about 20 s left",
        "this: 15 of 20 windows, 0.5 windows/s, about 10 s left",
        "that: 0 of 3 MB",
    ]
    with ProgressLine(quiet=True) as line:
        line("this", 0, 20)
    assert capsys.readouterr().err == ""


def test_a_terminal_gets_the_last_one(clock: list[float]) -> None:
    drawn: list[str] = []
    line = ProgressLine(quiet=False, draw=drawn.append)
    for done in range(3):
        line("this", done, 2)
        clock[0] += 1
    one = "this: 1 of 2 windows, 1 windows/s, about 1 s left"
    assert drawn == ["this: 0 of 2 windows", one, ""]


@pytest.mark.parametrize("quiet", [True, False])
def test_commands_that_measure_say_how_far_they_are(
    quiet: bool,
    language_model: Path,
    word_text: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    flags = ["--quiet"] * quiet
    prune = ["prune", language_model, "--method", "magnitude", "--sparsity", "0.5"]
    prune += ["--evaluate", word_text, "--evaluate-window", "16", "--out", tmp_path / "out"]
    evaluate = ["evaluate", tmp_path / "out", "--on", "perplexity"]
    evaluate += ["--text", word_text, "--window", "16"]
    for command, titles in (
        (prune, ["perplexity of the dense model on", "perplexity of the sparse model on"]),
        (evaluate, ["perplexity on"]),
    ):
        with pytest.raises(SystemExit) as ended:
            main([*map(str, command), *flags])
        assert ended.value.code in (0, None)
        said = capsys.readouterr().err
        for title in titles:
            assert (f"{title} {word_text}: 0 of 31 windows" in said.replace("\n", " ")) != quiet
