"""``steppe recover``: what a pruned language model has left, trained towards the dense one."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from steppe.cli.job import SHOWN, config_options, configured, taking
from steppe.cli.main import emit, say
from steppe.cli.recovered import show
from steppe.core.courtesy import NOT_COMPUTED, courtesy
from steppe.evaluation import read_record
from steppe.llm.recover_config import RecoverConfig

if TYPE_CHECKING:
    from steppe.experiment.recovery import PreparedRecovery

Folder = Annotated[str, typer.Argument(help="a pruned model: a folder with safetensors")]
_HELP = SHOWN | {
    "out": "the new folder [runs/FOLDER-recovered-seedN]",
    "samples": "blocks: calibration windows [128]",
    "epochs": "blocks: passes per part of a block [10]",
    "lr": "peak learning rate [blocks: weights 3e-3, norms 1e-2, lora 5e-3; whole: 3e-4, 1e-2]",
    "batch_size": "windows per step (whole: in a pass) [8]",
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
    from steppe.experiment.recovery import SCOPES

    name = f"{Path(folder).resolve().name}-recovered"
    config = configured(RecoverConfig, name, options)
    return SCOPES[config.scope](folder, config)


def command(make: partial[Any], json: bool, quiet: bool) -> None:
    """Train what a pruned model has left, its zeros kept; started again, it goes on."""
    from steppe.cli.recovering import watched_work  # what it needs is slow to import

    prepared = make()
    out = prepared.out
    if make.keywords.get("out") is None:
        say(f"writing to {out}", quiet)
    earlier = read_record(str(out))
    finished = bool(earlier) and NOT_COMPUTED not in earlier
    record = watched_work(prepared, finished, quiet)
    if finished:
        say("this run was finished before; nothing was done again", quiet)
    with courtesy("the summary"):
        show(record, out, quiet)
    emit(record | {"out": str(out)}, json)
