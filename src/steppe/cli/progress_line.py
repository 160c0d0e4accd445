"""How far something is and how long it will take, in one line."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Self

from rich.console import Console
from rich.live import Live

from steppe.cli.main import say
from steppe.engine import ranks
from steppe.engine.progress import is_redrawn

EVERY = 10.0
"""Seconds between two lines in a log file."""


class ProgressLine:
    """``WHAT: 12 of 141 MB, 3.7 MB/s, about 35 s left``, from `steppe.engine.progress.watched`.

    On a terminal the line is drawn anew; in a log file there is one at the beginning and one every
    ten seconds.

    Args:
        quiet: show nothing.
        draw: what draws the line on a terminal; left out, it is drawn by itself.
    """

    def __init__(self, quiet: bool, draw: Callable[[str], None] | None = None) -> None:
        self._quiet = quiet or not ranks.first()
        console = Console(stderr=True)
        self._live = None
        self._draw = draw
        if is_redrawn(console) and not self._quiet and draw is None:
            self._live = Live(console=console, refresh_per_second=4, transient=True)
            self._draw = self._live.update
        self._what, self._began, self._said = "", 0.0, 0.0
        self._before = 0  # done by an earlier start

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._live is not None:
            self._live.stop()

    def __call__(self, what: str, done: int, of: int, unit: str = "windows") -> None:
        """Show that so much of what there is has been done."""
        now = time.monotonic()
        if what != self._what:
            self._what, self._began, self._said = what, now, now - 2 * EVERY
            self._before = done
        line = f"{what}: {done} of {of} {unit}"
        if done > self._before and now > self._began:
            rate = (done - self._before) / (now - self._began)
            line += f", {rate:.3g} {unit}/s, about {(of - done) / rate:.0f} s left"
        if self._draw is not None:
            self._draw(line if done < of else "")
        elif done < of and now - self._said >= EVERY:
            self._said = now
            say(line, self._quiet)
