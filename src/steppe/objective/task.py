"""The loss of the task itself."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from steppe.core.batch import Batch
from steppe.core.protocols import Objective


@Objective.registry.register("task")
@dataclass(frozen=True, kw_only=True)
class Task(Objective):
    """f(x) is what the training loop computes, such as a cross entropy."""

    name = "task"

    def loss(self, batch: Batch) -> Tensor:
        assert batch.task_loss is not None
        return batch.task_loss
