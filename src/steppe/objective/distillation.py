"""The task, and the outputs of the dense network beside it."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from steppe.core.batch import Batch
from steppe.core.errors import SteppeError
from steppe.core.positions import sum_over
from steppe.core.protocols import Objective


@Objective.registry.register("distillation")
@dataclass(frozen=True, kw_only=True)
class Distillation(Objective):
    """(1 - w) * task loss + w * T^2 * KL(softmax(t / T) || softmax(s / T)).

    s are the network's logits and t those of its teacher: the network as it is before the first
    step, in eval mode, so it must start from trained weights. T^2 keeps the second term's gradient
    of one size whatever the temperature is. Of a language model the divergence is the mean over all
    positions, computed some positions at a time.

    Args:
        temperature: T > 0; higher ones compare the small probabilities too.
        weight: w in [0, 1], the teacher's share.

    Example:
        >>> Distillation(temperature=4.0, weight=0.5).reads
        ('task_loss', 'outputs', 'reference_outputs')

    Source: Hinton, Vinyals & Dean 2015, section 2.
    """

    temperature: float = 4.0
    weight: float = 0.5
    name = "distillation"
    reads = ("task_loss", "outputs", "reference_outputs")

    def __post_init__(self) -> None:
        if not 0 < self.temperature < math.inf:
            raise SteppeError(
                "the temperature of a distillation is above 0 and finite",
                got=f"temperature {self.temperature}",
                way_out="temperature: 4.0",
            )
        if not 0 <= self.weight <= 1:
            raise SteppeError(
                "the weight of a distillation lies in [0, 1]",
                got=f"weight {self.weight}",
                way_out="weight: 0.5; objective task is weight 0",
            )

    def reference(self, model: nn.Module) -> nn.Module:
        try:
            return copy.deepcopy(model).eval().requires_grad_(False)
        except RuntimeError as error:
            raise SteppeError(
                "a distillation copies the network before the first step",
                got=f"{type(model).__name__} ({str(error).splitlines()[0]})",
                way_out="sparsify before the first forward pass; torch.nn.utils.parametrizations "
                "instead of hooks that keep tensors",
            ) from None

    def loss(self, batch: Batch) -> Tensor:
        assert batch.task_loss is not None
        assert batch.outputs is not None
        assert batch.reference_outputs is not None
        student, teacher = batch.outputs, batch.reference_outputs
        if student.shape != teacher.shape:
            raise SteppeError(
                "a teacher answers in the network's own classes or vocabulary",
                got=f"answers of shape {list(teacher.shape)} to {list(student.shape)}",
                way_out="a teacher of the same classes (of a language model: the same tokenizer)",
            )
        rows = student.flatten(0, -2), teacher.flatten(0, -2)
        divergence = sum_over(self._divergences, *rows) / len(rows[0])
        return (1 - self.weight) * batch.task_loss + self.weight * self.temperature**2 * divergence

    def _divergences(self, student: Tensor, teacher: Tensor) -> Tensor:
        s, t = (F.log_softmax(z.float() / self.temperature, dim=-1) for z in (student, teacher))
        return F.kl_div(s, t, reduction="none", log_target=True).sum(-1)
