"""``steppe recover``: what a pruned language model has left, trained towards the dense one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steppe.cli.blocktable import BlockTable
from steppe.cli.job import SHOWN, config_options, configured, taking
from steppe.cli.main import emit, say
from steppe.cli.recovered import show
from steppe.core.courtesy import NOT_COMPUTED, courtesy
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import watched
from steppe.evaluation import read_record
from steppe.llm.recover_config import RecoverConfig

if TYPE_CHECKING:
    from steppe.llm.prepare import PreparedPruning
    from steppe.llm.recover import PreparedRecovery

Folder = Annotated[str, typer.Argument(help="a pruned model: a folder with safetensors")]
_HELP = SHOWN | {
    "out": "the new folder [runs/FOLDER-recovered-seedN]",
    "epochs": "passes per part of a block [10]",
    "lr": "peak learning rate [weights 1e-3, norms 1e-2, lora 5e-3]",
    "batch_size": "windows per step [8]",
    "include": "pattern of what counts as pruned [as it was pruned]",
    "exclude": "pattern of what does not [as it was pruned]",
    "regrow": "",
    "recover": "",
}
"""Help where it is not the field's; nothing for what a recovery does not take."""


def add(app: typer.Typer) -> None:
    verb = taking(job, config_options(RecoverConfig, _HELP), command)
    app.command("recover", short_help="Train what a pruned language model has left.")(verb)


def job(folder: Folder, **options: Any) -> PreparedRecovery:
    """What the options ask for, checked, with nothing long done yet.

    Args:
        folder: see its help.
        options: see `configured`.
    """
    from steppe.llm.recover import PreparedRecovery

    name = f"{Path(folder).resolve().name}-recovered"
    return PreparedRecovery(folder, configured(RecoverConfig, name, options))


def command(make: partial[PreparedPruning], json: bool, quiet: bool) -> None:
    """Train what a pruned model has left, its zeros kept; started again, it goes on."""
    from steppe.llm.pruning_run import run

    prepared = make()
    out, blocks = prepared.out, len(prepared.model)
    if make.keywords.get("out") is None:
        say(f"writing to {out}", quiet)
    done = len(Journal(out / "checkpoints" / "journal.json").get("blocks", []))
    earlier = read_record(str(out))
    finished = bool(earlier) and NOT_COMPUTED not in earlier
    if done and not finished:
        say(f"going on: {done} of {blocks} blocks were done before", quiet)
    with BlockTable(blocks, quiet) as table, watched(table.advance):
        record = run(prepared, table.add)
    if finished:
        say("this run was finished before; nothing was done again", quiet)
    with courtesy("the summary"):
        show(record, out, quiet)
    emit(record | {"out": str(out)}, json)
