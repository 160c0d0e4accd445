"""``steppe plan``: what a pruning job will need, before it is started."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import typer

from steppe.cli.job import takes_a_job
from steppe.cli.main import emit, say

if TYPE_CHECKING:
    from steppe.llm.prune import Job


def add(app: typer.Typer) -> None:
    app.command("plan", short_help="Say what steppe prune would need.")(takes_a_job(command))


def command(make: partial[Job], json: bool, quiet: bool) -> None:
    """What steppe prune would need of memory, disk and time; takes the same options."""
    from steppe.llm.plan import lines, plan

    job = make()
    found = plan(job)
    for line in lines(found, job.out):
        say(line, quiet)
    emit(found | {"out": str(job.out)}, json)
