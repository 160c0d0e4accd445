"""What of a model goes, and how that is found: one function for each kind of structure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.registry import Registry
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.cut import Cut
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target
from steppe.method import Method


def _as_it_is(model: StreamedModel) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What stays of a model, and the model that it is cut from.

    Args:
        cut: what stays.
        source: folder of the model that is cut: with zeros where units are gone, or the dense one.
        record: of how it was chosen, in the keys of `steppe.llm.pruning_run`.
        gone: blocks that the source lacks already.
        without: makes the source compute as if all that goes were gone, while it is entered; only
            the check of the result needs it. Nothing to do where zeros do that.
    """

    cut: Cut
    source: Path
    record: dict[str, Any]
    gone: tuple[str, ...] = ()
    without: Callable[[StreamedModel], AbstractContextManager[Any]] = _as_it_is


@dataclass(frozen=True, kw_only=True)
class Expected:
    """What a removal will come to, before anything long is done.

    Args:
        cut: what will stay; where only text tells which, others, as many.
        offers: shapes of which text tells which one it will be; ``cut`` leaves the largest.
        flags: what the config will say besides, see `steppe.llm.structured.biases`.
        at_most: whether another choice of what goes leaves less.
        seconds: part of the work -> seconds, from one block on trial; nothing without a trial.
        steps: sentences on how it is found what goes.
    """

    cut: Cut
    offers: Sequence[Shape] = ()
    flags: Mapping[str, Any] = field(default_factory=dict)
    at_most: bool = False
    seconds: Mapping[str, float] = field(default_factory=dict)
    steps: Sequence[str] = ()


Chooser = Callable[[PreparedPruning, Report], Choice]
CHOOSERS: Registry[Chooser] = Registry("kind of removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> how it is found what goes; started again, each goes on where it was."""
Check = Callable[[PreparedPruning], object]
CHECKS: Registry[Check] = Registry("check of a removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> what raises SteppeError for what cannot be, before a folder is begun."""
Expectation = Callable[[PreparedPruning, Mapping[str, Tensor], bool], Expected]
EXPECTATIONS: Registry[Expectation] = Registry(
    "expectation of a removal", "steppe.llm.structured.choices"
)
"""`Structure.removes` -> what the removal will come to: of a job, the texts on which perplexity is
measured, and whether a block is tried for times. What cannot be was refused, and how blocks are
called is decided."""
Fitting = Callable[[Method, Path, Target, str | None], Method]
FITTINGS: Registry[Fitting] = Registry("fitting to a target", "steppe.llm.structured.choices")
"""`Structure.removes` -> the method that meets a target: of a method, a model's folder, the target
and the family as which the model is written. Only where what goes is no number of a `Shape`."""
Done = Callable[[Path], str]
DONE: Registry[Done] = Registry("stand of a removal", "steppe.llm.structured.choices")
"""`Structure.removes` -> what of it was done before in a folder, in words; "" where nothing was."""
