"""What of a model goes, and how that is found: one function for each kind of structure."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.prune_config import PruneConfig
from steppe.llm.structured.cut import Cut
from steppe.llm.structured.fresh_record import FreshRecord


def _as_it_is(model: StreamedModel) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What stays of a model, and the model that it is cut from.

    Args:
        cut: what stays.
        source: folder of the model that is cut: with zeros where units are gone, or the dense one.
        record: of how it was chosen, in the keys of `steppe.llm.pruning_run`.
        without: makes the source compute as if all that goes were gone, while it is entered; only
            the check of the result needs it. Nothing to do where zeros do that.
    """

    cut: Cut
    source: Path
    record: dict[str, Any]
    without: Callable[[StreamedModel], AbstractContextManager[Any]] = _as_it_is


Chooser = Callable[[PreparedPruning, FreshRecord, Report], Choice]
CHOOSERS: Registry[Chooser] = Registry("kind of removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> how it is found what goes; started again, each goes on where it was.
Given the record that begins with what was measured before, for those that prune nothing."""
Check = Callable[[PreparedPruning], object]
CHECKS: Registry[Check] = Registry("check of a removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> what raises SteppeError for what cannot be, before a folder is begun."""
Done = Callable[[Path], str]
DONE: Registry[Done] = Registry("stand of a removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> what of it was done before in a folder, in words; "" where nothing was."""


def check_needs_no_zero(config: PruneConfig, structure: str) -> None:
    """Whether nothing is asked for that is done to zeros, of which a removal leaves none.

    Args:
        config: what is asked for.
        structure: what is removed.

    Raises:
        SteppeError: something is.
    """
    if config.recover:
        raise SteppeError(
            "what is recovered has zeros that are kept",
            got=f"--recover with structure {structure}, of which no zero is left",
            way_out="leave it out; what comes out trains as any model of transformers",
        )
    if config.regrow:
        raise SteppeError(
            "weights that are zero come back where single weights are pruned",
            got=f"--regrow with structure {structure}, where what stays is as it was",
            way_out="leave it out",
        )
