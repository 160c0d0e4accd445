"""What a run shows while it works, and the memory that it took."""

from __future__ import annotations

import contextlib
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Self

import torch
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import Progress, ProgressColumn, Task
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

EVERY, EVERY_IN_LOGS = 1.0, 60.0
"""Seconds between two looks at a training on a terminal, and between two lines in a log file."""
BAR = 10
"""Letters that a bar takes at least."""

Watch = Callable[[str, int, int, str], None]
_watch: ContextVar[Watch | None] = ContextVar("watch", default=None)


@contextlib.contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Whatever long happens inside tells how far it is.

    Args:
        watch: called with what is done, how much of it, of how much, and in which unit.

    Example:
        >>> with watched(lambda what, done, of, unit: print(f"{what}: {done} of {of} {unit}")):
        ...     advanced("perplexity", 1, 4)
        perplexity: 1 of 4 windows
    """
    token = _watch.set(watch)
    try:
        yield
    finally:
        _watch.reset(token)


def advanced(what: str, done: int, of: int, unit: str = "windows") -> None:
    """Tell who watches, if anybody does.

    Args:
        what: in a few words; the same from the first call to the last.
        done: how much of it.
        of: how much there is.
        unit: of both.
    """
    watch = _watch.get()
    if watch is not None:
        watch(what, done, of, unit)


def is_redrawn(console: Console) -> bool:
    """Whether a line can be drawn anew; elsewhere lines follow each other, as in a log file.

    A dumb terminal cannot go back, so it gets what a log file gets.

    Example:
        >>> import io
        >>> is_redrawn(Console(file=io.StringIO()))
        False
    """
    return console.file.isatty() and not console.is_dumb_terminal


def say_in_logs(text: str, quiet: bool) -> None:
    """A plain line where no bar is drawn: there a run must show that it lives."""
    if not quiet and not is_redrawn(Console(stderr=True)):
        print(text, file=sys.stderr, flush=True)


class TrainingProgress:
    """How far a training is: on a terminal a line with a bar, in a log file a line now and then.

    The line on the terminal is drawn anew every second, is never wider than it, and is gone at the
    end. In a log file there is a line for each epoch, and one a minute within it.

    Args:
        wanted: show anything at all.
        total: steps of the training.
        clock: seconds.
        console: where it is drawn; standard error if none is given.

    Example:
        >>> with TrainingProgress(False, 10) as progress:
        ...     progress.at(1, lambda: "epoch 1/2 loss 0.1")
    """

    def __init__(
        self,
        wanted: bool,
        total: int,
        clock: Callable[[], float] = time.monotonic,
        console: Console | None = None,
    ) -> None:
        self._console = console or Console(stderr=True, soft_wrap=True)
        self._clock, self._said, self._total = clock, clock(), total
        terminal = is_redrawn(self._console)
        self._drawn, self._logs = wanted and terminal, wanted and not terminal
        self._bar = Progress(
            _Line(self._console),
            console=self._console,
            disable=not self._drawn,
            refresh_per_second=4,
            transient=True,
        )
        self._task = self._bar.add_task("training", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def at(self, done: int, words: Callable[[], str]) -> None:
        """So many steps are done; the words are made only when they are shown, as that waits."""
        every, now = (EVERY if self._drawn else EVERY_IN_LOGS), self._clock()
        if (self._drawn or self._logs) and now - self._said >= every:
            self._said = now
            if self._drawn:
                self._bar.update(self._task, description=words())
            else:
                self._write(f"{words()}, step {done} of {self._total}")
        self._bar.update(self._task, completed=done)

    def epoch(self, words: Callable[[], str]) -> None:
        """An epoch is over."""
        if self._drawn:
            self._bar.update(self._task, description=words())
        elif self._logs:
            self._write(words())
            self._said = self._clock()

    def _write(self, text: str) -> None:
        print(text, file=self._console.file, flush=True)


class _Line(ProgressColumn):
    """Words, then as much of a bar and of the count as there is room for."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    def render(self, task: Task) -> Table:
        count = f"{int(task.completed)}/{int(task.total or 0)}"
        room = self._console.width - cell_len(task.description) - 1
        line = Table.grid(padding=(0, 1, 0, 0))
        line.add_column(no_wrap=True, overflow="ellipsis")
        cells: list[RenderableType] = [Text(task.description)]
        if room >= BAR:
            wide = min(room - len(count) - 1, 4 * BAR)
            bar = ProgressBar(task.total or 0, task.completed, width=max(wide, BAR))
            cells += [bar, Text(count)] if wide >= BAR else [bar]
        for _ in cells[1:]:
            line.add_column(no_wrap=True)
        line.add_row(*cells)
        return line


def peak_memory() -> int:
    """Bytes: what torch held at most on the GPU, or the process on the CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    scale = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale
