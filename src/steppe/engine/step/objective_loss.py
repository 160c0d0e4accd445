"""The loss that a method optimises, from what the training loop has computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.protocols import Objective
from steppe.engine.step.output_gradients import OutputGradients

Forward = Callable[[nn.Module, Any], Tensor]


def check_looks_at_a_teacher(objective: Objective) -> None:
    """Raise SteppeError where an objective has no use for another network's answers."""
    if "reference_outputs" not in objective.reads:
        raise SteppeError(
            "a teacher belongs to an objective that looks at its answers",
            got=f"objective {objective.name}",
            way_out="objective distillation (--set method.objective=distillation), or no teacher",
        )


class ObjectiveLoss:
    """An objective at work: its reference network, and whether it gets what it reads.

    Args:
        objective: the method's.
        model: the network before anything of it is changed; a reference is made from it.
        outputs: is told of the network's outputs, where a perturbation looks at them.
        given: the reference, instead of the one that the objective makes of the model.

    Raises:
        SteppeError: a reference is given that the objective does not look at.
    """

    def __init__(
        self,
        objective: Objective,
        model: nn.Module,
        outputs: OutputGradients | None = None,
        given: nn.Module | None = None,
    ) -> None:
        if given is not None:
            check_looks_at_a_teacher(objective)
        self._outputs = outputs
        self.objective = objective
        self.made = objective.reference(model) if given is None else None
        """The reference that was made of the model, which a saved state holds."""
        self.reference = self.made if given is None else given
        self._model = model
        self._calls = 0

    def compute(self, forward: Forward, **fields: Any) -> Tensor:
        """The loss of a batch.

        Args:
            forward: (network, inputs) -> outputs, for the reference.
            fields: those of `Batch` that the training loop knows.

        Raises:
            SteppeError: one of them is missing that the objective reads.
        """
        self._calls += 1
        if self._outputs is not None and fields.get("outputs") is not None:
            self._outputs.see(fields["outputs"])
        if self.reference is not None and fields.get("inputs") is not None:
            self._follow(self.reference)
            with torch.no_grad():
                fields["reference_outputs"] = forward(self.reference, fields["inputs"])
        missing = [name for name in self.objective.reads if fields.get(name) is None]
        if missing:
            raise SteppeError(
                f"objective {self.objective.name} needs more of a batch",
                got=f"no {' and no '.join(_given_as(missing))}",
                way_out=self._way_out(),
            )
        return self.objective.loss(Batch(**fields))

    def _follow(self, reference: nn.Module) -> None:
        """The reference goes where the model went since it was made: device and data type."""
        own, there = (next(m.parameters(), None) for m in (reference, self._model))
        if own is None or there is None or (own.device, own.dtype) == (there.device, there.dtype):
            return
        reference.to(there.device, there.dtype)

    def begin(self) -> None:
        """A step's first pass begins."""
        self._calls = 0

    def check(self, closures: int) -> None:
        """Whether all closures of a step asked for the objective's loss.

        Raises:
            SteppeError: the objective is more than the task, and a closure returned only that.
        """
        if self._calls < closures and self.objective.reads != ("task_loss",):
            raise SteppeError(
                f"objective {self.objective.name} optimises more than the task's loss",
                got="a closure that does not call sparsifier.loss",
                way_out=self._way_out(),
            )

    def _way_out(self) -> str:
        names = [n for n in _given_as(self.objective.reads) if n != "task_loss"]
        arguments = ", ".join(f"{name}={name}" for name in names)
        first = "task_loss, " if "task_loss" in self.objective.reads else ""
        return f"return sparsifier.loss({first}{arguments}) from the closure"


def _given_as(fields: Sequence[str]) -> list[str]:
    """What a loop gives for these fields of a batch: the reference's outputs come from inputs."""
    return ["inputs" if name == "reference_outputs" else name for name in fields]
