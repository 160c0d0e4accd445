"""A training's line fits its terminal and goes when it is done; a log file gets a line at times."""

from __future__ import annotations

import io
import re

import pytest
from rich.cells import cell_len
from rich.console import Console

from steppe.engine.progress import TrainingProgress, is_redrawn, say_in_logs

SHORT = "epoch 2/3 loss 1.401, 40 images/s (49% waiting for data), 5 s left"
LONG = "epoch 118/160 loss 6.912, 12,345 images/s (12% waiting for data), 117 min left"


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def frames(words: str, width: int, term: str = "xterm") -> str:
    """Everything that is written to a terminal while a training of 450360 steps goes on."""
    screen, clock = Screen(), Clock()
    console = Console(
        file=screen, force_terminal=True, width=width, _environ={"TERM": term}, legacy_windows=False
    )
    with TrainingProgress(True, 450_360, clock, console) as progress:
        for step in range(1, 4):
            clock.now += 2
            progress.at(step, lambda: words)
            progress._bar.refresh()
        progress.epoch(lambda: words)
        progress._bar.refresh()
    return screen.getvalue()


@pytest.mark.parametrize("words", [SHORT, LONG])
@pytest.mark.parametrize("width", [40, 80, 120])
def test_a_line_is_never_wider_than_the_terminal(words: str, width: int) -> None:
    written = frames(words, width)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", written)  # colours
    lines = re.split(r"\x1b\[[0-9;?]*[A-Za-z]|[\r\n]", plain)
    assert max(map(cell_len, lines)) <= width
    shown = [line for line in lines if line.startswith("epoch")]
    assert shown
    if width >= 80:
        assert any(line.startswith(words) for line in shown), "the words come first"
    if width == 120:
        assert "450360" in written or words is LONG
    assert "… " not in written, "no figure is cut in the middle of the line"


@pytest.mark.parametrize("width", [80, 120])
def test_nothing_is_left_on_the_terminal(width: int) -> None:
    written = frames(SHORT, width)
    assert "\n" not in written.rstrip("\n").rpartition("\x1b[2K")[2], "erased at last"
    assert written.endswith("\x1b[2K")
    assert "\x1b[?25h" in written, "the cursor is back"


def test_a_dumb_terminal_gets_what_a_log_file_gets() -> None:
    written = frames(SHORT, 80, term="dumb")
    assert written.splitlines() == [SHORT]
    assert not is_redrawn(Console(file=Screen(), _environ={"TERM": "dumb"}))
    assert not is_redrawn(Console(file=io.StringIO(), force_terminal=True))
    assert is_redrawn(Console(file=Screen(), _environ={"TERM": "xterm"}))


@pytest.mark.parametrize("term", ["dumb", "xterm"])
def test_a_line_beside_the_bar_is_said_where_there_is_none(
    term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    screen = Screen()
    monkeypatch.setattr("sys.stderr", screen)
    say_in_logs("quietly", quiet=True)
    say_in_logs("resumed after step 3 of 9", quiet=False)
    assert screen.getvalue() == ("resumed after step 3 of 9\n" if term == "dumb" else "")


@pytest.mark.parametrize("wanted", [True, False])
def test_a_log_file_has_a_line_a_minute_and_one_for_each_epoch(wanted: bool) -> None:
    file, clock = io.StringIO(), Clock()
    with TrainingProgress(wanted, 400, clock, Console(file=file)) as progress:
        for step in range(1, 151):
            clock.now += 1
            progress.at(step, lambda step=step: f"epoch 1/2 loss {step}")  # type: ignore[misc]
        progress.epoch(lambda: "epoch 1/2 loss 150")
    lines = file.getvalue().splitlines()
    wanted_lines = [f"epoch 1/2 loss {n}, step {n} of 400" for n in (60, 120)]
    assert lines == ([*wanted_lines, "epoch 1/2 loss 150"] if wanted else [])


def test_words_are_made_only_to_be_shown() -> None:
    """They wait for the device."""
    made = []

    def words() -> str:
        made.append(1)
        return "epoch"

    with TrainingProgress(True, 9, Clock(), Console(file=Screen(), force_terminal=True)) as line:
        for step in range(9):
            line.at(step, words)
    assert not made, "no time went by"
