"""What ``steppe train`` can train: one file per task, found by the registry."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from torch import nn

from steppe.core.registry import Registry
from steppe.experiment import base


@dataclass(frozen=True, kw_only=True)
class Quality:
    """By which figure of their records runs of one recipe are compared.

    Args:
        name: ``accuracy``.
        of: on what it is measured, ``the test images``.
        place: the keys that lead to it in a record.
        higher: whether more is better.
        unseen: whether options may be chosen by it: neither trained on nor kept for the end.
    """

    name: str
    of: str
    place: tuple[str, ...]
    higher: bool
    unseen: bool

    def read(self, record: Mapping[str, Any]) -> float | None:
        """The figure; None where it was not computed, or is no finite number.

        Example:
            >>> quality = Quality(
            ...     name="accuracy", of="x", place=("sparse", "accuracy"), higher=True, unseen=True
            ... )
            >>> quality.read({"sparse": {"accuracy": 0.5}}), quality.read({"sparse": {}})
            (0.5, None)
        """
        found: Any = record
        for key in self.place:
            found = found.get(key, {})
        return float(found) if isinstance(found, int | float) and math.isfinite(found) else None


class Task(Protocol):
    """A kind of network and data: how its recipes read, and how they are run."""

    name: ClassVar[str]

    @classmethod
    def owns(cls, recipe: Mapping[str, Any]) -> bool:
        """Whether a recipe, as plain data, is of this task."""
        ...

    @classmethod
    def claims(cls, model: str) -> bool:
        """Whether what stands where a recipe may stand is a network of this task."""
        ...

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> Any:
        """The recipe, validated.

        Args:
            data: as plain data.
            where: it was read, for messages.
            folder: where the path of a base starts.
        """
        ...

    @classmethod
    def train(cls, recipe: Any, out: Path | None, quiet: bool) -> dict[str, Any]:
        """Run a recipe that `load` gave; the record."""
        ...

    @classmethod
    def opened(cls, recipe: Any) -> tuple[Any, nn.Module]:
        """The data and the network of a recipe as a finished run had them, without its weights.

        Args:
            recipe: that `load` gave.

        Raises:
            SteppeError: its networks are measured by other means.
        """
        ...

    @classmethod
    def quality(cls, recipe: Any) -> Quality:
        """What says how good a run of a recipe is.

        Args:
            recipe: that `load` gave.

        Raises:
            SteppeError: nothing is measured.
        """
        ...

    @classmethod
    def on_held_out(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        """The recipe that is measured on data held out of those it trains on, and on no others."""
        ...

    @classmethod
    def shortened(cls, plain: Mapping[str, Any], fraction: float) -> dict[str, Any]:
        """The recipe that trains for a fraction, in (0, 1], of the time."""
        ...


TASKS: Registry[type[Task]] = Registry("task", "steppe.experiment.tasks")


def task_of(recipe: Mapping[str, Any], folder: Path | None = None) -> type[Task]:
    """The task of a recipe: what it says, or its base; images where neither says.

    Args:
        recipe: as plain data.
        folder: where the path of a base starts.

    Raises:
        SteppeError: no task is called so.

    Example:
        >>> task_of({"method": "safe"}).name, task_of({"task": "causal_lm"}).name
        ('image', 'causal_lm')
    """
    whole = base.whole(recipe, folder)
    for name in TASKS:
        if TASKS[name].owns(whole):
            return TASKS[name]
    return TASKS[str(whole.get("task"))]
