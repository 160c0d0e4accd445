"""What ``steppe train`` can train: one file per task, found by the registry."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Protocol

from steppe.core.registry import Registry
from steppe.experiment import base


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
