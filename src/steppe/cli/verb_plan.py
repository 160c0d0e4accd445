"""``steppe plan``: what a pruning job or a training will need, before it is started."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import typer
from typer.core import TyperCommand

from steppe.cli.job import takes_a_job
from steppe.cli.main import emit, say

if TYPE_CHECKING:
    from steppe.llm.prepare import PreparedPruning

_WHOLE = "--whole"


class PlanCommand(TyperCommand):
    """With ``--whole`` it is ``steppe train --plan``, whose options it then takes."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any
    ) -> Any:
        if parent is None or _WHOLE not in args:
            return super().make_context(info_name, args, parent, **extra)
        train = parent.command.get_command(parent, "train")
        of_train = [arg for arg in args if arg != _WHOLE]
        return train.make_context(info_name, [*of_train, "--plan"], parent, **extra)


def add(app: typer.Typer) -> None:
    short = "Say what steppe prune, or with --whole steppe train, would need."
    app.command("plan", short_help=short, cls=PlanCommand)(takes_a_job(command))


def command(make: partial[PreparedPruning], json: bool, quiet: bool) -> None:
    """What steppe prune would need of memory, disk and time; takes the same options. With --whole
    what steppe train would need of memory to train the model as a whole; takes the options of
    that: steppe plan --whole --help."""
    from steppe.llm.plan import lines, plan
    from steppe.llm.structured.chosen import family_note

    prepared = make()
    planned = plan(prepared, latency_table=make.keywords.get("latency_table"))
    for line in lines(planned, prepared.out):
        say(line, quiet)
    if note := family_note(prepared) if make.keywords.get("target") is not None else "":
        say(note, quiet)
    emit(planned | {"out": str(prepared.out)}, json)
