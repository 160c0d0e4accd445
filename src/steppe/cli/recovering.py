"""A recovery at work, and how far it is."""

from __future__ import annotations

from functools import singledispatch
from typing import Any

from steppe.cli.blocktable import BlockTable
from steppe.cli.main import say
from steppe.cli.progress_line import ProgressLine
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import watched
from steppe.experiment.causal_lm.recovery import Recovery
from steppe.llm.recover import PreparedRecovery


@singledispatch
def watched_work(prepared: Any, finished: bool, quiet: bool) -> dict[str, Any]:
    """Run a recovery, and show how far it is; the record.

    Args:
        prepared: what is run.
        finished: whether it was finished before.
        quiet: show nothing.
    """
    raise AssertionError(f"nobody knows how to show {type(prepared).__name__}")


@watched_work.register
def _of_blocks(prepared: PreparedRecovery, finished: bool, quiet: bool) -> dict[str, Any]:
    blocks = len(prepared.model)
    done = len(Journal(prepared.out / "checkpoints" / "journal.json").get("blocks", []))
    if done and not finished:
        say(f"going on: done before: {done} of {blocks} blocks", quiet)
    with BlockTable(blocks, quiet) as table, watched(table.advance):
        return prepared.recover(table.add)


@watched_work.register
def _of_all(prepared: Recovery, finished: bool, quiet: bool) -> dict[str, Any]:
    prepared.quiet = quiet
    if not finished:
        with ProgressLine(quiet) as shown, watched(shown):
            prepared.ready()
    return prepared.recover()
