"""The loss of the task itself."""

from __future__ import annotations

from dataclasses import dataclass

from steppe.core.protocols import Objective


@Objective.registry.register("task")
@dataclass(frozen=True, kw_only=True)
class Task(Objective):
    """f(x) is what the user's closure returns."""

    name = "task"
