"""A run returns to its beginning: weights, or only the optimiser."""

from __future__ import annotations

import torch
from torch import nn
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.protocols import Schedule, Tensors


class Rewind:
    """Keeps what a model was, and puts it back; costs one copy of the model.

    Args:
        schedule: says what is rewound, and to which step.
        total: steps of the run.

    Raises:
        SteppeError: the run is so short that no training follows the last cut.
    """

    def __init__(self, schedule: Schedule, total: int) -> None:
        self.what = schedule.rewinds
        if self.what and schedule.due(total - 1, total):
            raise SteppeError(
                "a schedule that rewinds trains after every cut",
                got=f"{total} steps for {schedule.to_dict()}",
                way_out="more steps, or fewer cycles",
            )
        self._anchor = schedule.anchor(total)
        self.kept: Tensors | None = None

    @torch.no_grad()
    def keep(self, model: nn.Module, step: int) -> None:
        """Remember the model if it stands before the step to which is rewound."""
        if self.what == "weights" and step == self._anchor and self.kept is None:
            self.kept = {name: t.detach().clone() for name, t in model.state_dict().items()}

    @torch.no_grad()
    def back(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Weights and batch-norm statistics as they were, an optimiser that has done nothing."""
        if self.what == "weights":
            assert self.kept is not None, "nothing was kept before the first cut"
            own = model.state_dict()
            for name, tensor in self.kept.items():
                own[name].copy_(tensor)
        optimizer.state.clear()
