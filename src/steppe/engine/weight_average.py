"""A running mean of the weights, which takes their place at the end (EMA)."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.split import part_of


class WeightAverage:
    """``a <- d a + (1 - d) w`` after every step, ``d = min(decay, (1 + t) / (10 + t))`` at step t.

    The mean has no zeros of its own: it is put in the weights' place before the last projection.

    Args:
        model: whose trained parameters are averaged, as they are now.
        decay: in (0, 1); the mean reaches back about 1 / (1 - decay) steps.

    Raises:
        SteppeError: a decay out of range.

    Source: Polyak & Juditsky 1992; the ramp of d is that of TensorFlow's
    ``ExponentialMovingAverage``.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> _ = nn.init.constant_(model.weight, 0.0)
        >>> average = WeightAverage(model, 0.9)
        >>> _ = nn.init.constant_(model.weight, 1.0); average.update()
        >>> average.store(); round(model.weight.item(), 3)
        0.818
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        if not 0.0 < decay < 1.0:
            raise SteppeError("ema must lie in (0, 1)", got=decay, way_out="train.ema 0.9999")
        self.decay, self.steps = decay, 0
        self._named = {n: p for n, p in model.named_parameters() if p.requires_grad}
        self._mean = [part_of(p.detach()).clone() for p in self._named.values()]

    def _now(self) -> list[Tensor]:
        return [part_of(p.detach()) for p in self._named.values()]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights after a step."""
        self.steps += 1
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        torch._foreach_lerp_(self._mean, self._now(), 1 - decay)

    @torch.no_grad()
    def store(self) -> None:
        """Give the model the mean."""
        for weight, mean in zip(self._now(), self._mean, strict=True):
            weight.copy_(mean)

    def state_dict(self) -> dict[str, Any]:
        """What a run goes on with."""
        return {"steps": self.steps, "mean": dict(zip(self._named, self._mean, strict=True))}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`."""
        self.steps = state["steps"]
        for name, mean in zip(self._named, self._mean, strict=True):
            mean.copy_(state["mean"][name])
