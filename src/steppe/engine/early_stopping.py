"""The best state of a training by its loss on what is held out, and when to end it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.split import part_of
from steppe.engine import ranks

Loss = Callable[[Tensor, Tensor], Tensor]


class EarlyStopping:
    """Keeps the parameters that had the lowest loss on held-out batches.

    It looks before the training and after every epoch. After ``patience`` looks in a row without a
    lower loss the training is over. The result is never worse than the start on these batches.

    Args:
        held_out: batches, (inputs, targets), of one size; each process has the same ones.
        patience: looks without a lower loss.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> look = lambda x, y: (model(x) - y).square().mean()
        >>> early = EarlyStopping([(torch.ones(1, 1), torch.ones(1, 1))], patience=1)
        >>> for weight in (3.0, 1.5, 2.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     _ = early.look(model, look)
        >>> early.curve, early.best_epoch, early.over
        ([4.0, 0.25, 1.0], 1, True)
        >>> early.restore(model); model.weight.item()
        1.5
    """

    def __init__(self, held_out: Sequence[tuple[Tensor, Tensor]], patience: int) -> None:
        assert held_out, "nothing to look at"
        self._held_out, self._patience = held_out, patience
        self._best: dict[str, Tensor] = {}
        self.curve: list[float] = []
        """Loss at the start and after each epoch."""
        self.best_epoch = 0
        """After which epoch the loss was lowest; 0 is the start."""

    @property
    def over(self) -> bool:
        """Whether it was waited for long enough."""
        return len(self.curve) - 1 - self.best_epoch >= self._patience

    @torch.no_grad()
    def look(self, model: nn.Module, loss: Loss) -> float:
        """Measure the loss, and keep the parameters if it is the lowest.

        Args:
            model: as its optimiser sees it; in training mode again afterwards.
            loss: of a batch.
        """
        model.eval()
        total = torch.zeros((), dtype=torch.float64)
        for inputs, targets in self._held_out:
            total += loss(inputs, targets).double().cpu()
        model.train()
        found = ranks.number_of_first(float(total) / len(self._held_out))  # all end together
        before = min(self.curve, default=math.inf)
        self.curve.append(found)
        if found < before or not self._best:  # False where it is no number
            self.best_epoch = len(self.curve) - 1
            self._best = {n: part_of(p.detach()).cpu().clone() for n, p in _trained(model)}
        return found

    @torch.no_grad()
    def restore(self, model: nn.Module) -> None:
        """Give the model the best parameters."""
        for name, parameter in _trained(model):
            part_of(parameter).copy_(self._best[name])

    def row(self) -> dict[str, Any]:
        """What was found, for a record."""
        return {
            "held_out_loss": self.curve,
            "best_part": self.best_epoch,
            "stopped_early": self.over,
            "patience": self._patience,
        }

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on with."""
        return {"curve": self.curve, "best_epoch": self.best_epoch, "best": self._best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.curve, self.best_epoch = list(state["curve"]), state["best_epoch"]
        self._best = dict(state["best"])


def _trained(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(n, p) for n, p in model.named_parameters() if p.requires_grad]
