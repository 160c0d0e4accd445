"""What a report says in short, and below it in full, on the terminal."""

from __future__ import annotations

from rich.console import Console

from steppe.cli.main import say
from steppe.report.in_short import InShort


def say_short(short: InShort, quiet: bool = False) -> None:
    """Sentences, table, all sentences; on standard error.

    Args:
        short: of the runs.
        quiet: say nothing.
    """
    for sentence in short.sentences:
        say(sentence, quiet)
    if short.table is not None and not quiet:
        Console(stderr=True).print(short.table.rich())
    if short.full != short.sentences:
        say("In full:", quiet)
        for sentence in short.full:
            say(sentence, quiet)
