"""A run returns to its beginning: weights, or only the optimiser."""

from __future__ import annotations

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.protocols import Schedule, Tensors
from steppe.engine.step.optimizers import Optimizers


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
    def back(self, model: nn.Module, optimizers: Optimizers) -> None:
        """Weights and running statistics as they were, optimisers that have done nothing."""
        if self.what == "weights":
            assert self.kept is not None, "nothing was kept before the first cut"
            own = model.state_dict()
            for name, tensor in self.kept.items():
                own[name].copy_(tensor)
        optimizers.reset()
