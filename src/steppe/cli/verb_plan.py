"""``steppe plan``: what a pruning job will need, before it is started."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from steppe.cli.job import takes_a_job
from steppe.cli.main import emit, say

if TYPE_CHECKING:
    from steppe.llm.prepare import PreparedPruning


def add(app: typer.Typer) -> None:
    app.command("plan", short_help="Say what steppe prune would need.")(takes_a_job(command))


def command(make: partial[PreparedPruning], json: bool, quiet: bool) -> None:
    """What steppe prune would need of memory, disk and time; takes the same options."""
    from steppe.llm.plan import lines, plan

    prepared = make()
    planned = plan(prepared)
    for line in lines(planned, prepared.out):
        say(line, quiet)
    emit(planned | {"out": str(prepared.out)}, json)
