"""What a network is trained for: how it is run, what its loss is, how its data are counted."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from torch import Tensor, nn
from torch.nn import functional as F


class TrainingTask(Protocol):
    """What the trainer asks of a task; it knows images from text by nothing else."""

    @property
    def unit(self) -> str:
        """What the speed counts (tokens, images); empty where none is shown."""
        ...

    @property
    def records_pace(self) -> bool:
        """Whether the metrics have the speed; without it they are the same for any machine."""
        ...

    def count(self, inputs: Tensor) -> int:
        """How many units a batch has."""
        ...

    @property
    def period(self) -> str:
        """What the run is made of: an epoch, or a part of one long pass."""
        ...

    @property
    def quality(self) -> str:
        """What is measured of the network."""
        ...

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        """The outputs of a network, the one that is trained or its reference."""
        ...

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The task's loss, a scalar: a mean over the batch."""
        ...

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The fraction of right answers, in [0, 1]."""
        ...

    def settle(self, model: nn.Module) -> None:
        """After the last projection: give the network the values that its files can hold."""
        ...


@dataclass(frozen=True, kw_only=True)
class Classification:
    """Images or other inputs with one label each.

    Args:
        run: (model, inputs) -> logits ``[batch, classes]``.
        label_smoothing: of the cross entropy.

    Example:
        >>> import torch
        >>> round(float(Classification().loss(torch.zeros(2, 4), torch.tensor([0, 1]))), 4)
        1.3863
    """

    run: Callable[[nn.Module, Tensor], Tensor] = lambda model, x: model(x)
    label_smoothing: float = 0.0
    unit = "images"
    records_pace = False
    period = "epoch"
    quality = "accuracy"

    def count(self, inputs: Tensor) -> int:
        return len(inputs)

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return self.run(model, inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets, label_smoothing=self.label_smoothing)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        if targets.ndim == outputs.ndim:  # shares, of mixed images: the largest counts
            targets = targets.argmax(-1)
        return (outputs.detach().argmax(-1) == targets).float().mean()

    def settle(self, model: nn.Module) -> None:
        """Its files hold float32."""


SHOWN = 0.05
"""From this share of the time on, waiting is told of data that lie in memory."""


class Pace:
    """How fast the data go by, in one start of a run; what came before a kill is not counted.

    Args:
        unit: what is counted; empty for nothing.
        streams: whether data are read and decoded while the run goes on; the share of the time that
            it waits for them is then always told.
        clock: seconds.

    Example:
        >>> times = iter([0.0, 2.0, 2.0, 2.0])
        >>> pace = Pace("tokens", clock=lambda: next(times))
        >>> pace.saw(64, 1); pace.shown(3)
        ', 32 tokens/s, 6 s left'
    """

    def __init__(
        self, unit: str, *, streams: bool = False, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.unit, self._streams, self._clock = unit, streams, clock
        self._begun, self._seen, self._steps = clock(), 0, 0
        self._waited = 0.0

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """What happens inside waits for data."""
        begun = self._clock()
        yield
        self._waited += self._clock() - begun

    def saw(self, entries: int, steps: int) -> None:
        """So many entries went by in so many steps."""
        self._seen += entries
        self._steps += steps

    @property
    def rate(self) -> float:
        """Units a second."""
        return self._seen / max(self._clock() - self._begun, 1e-9)

    def row(self) -> dict[str, Any]:
        """For a row of the metrics."""
        return {f"{self.unit}_per_second": round(self.rate, 1)} if self.unit and self._steps else {}

    @property
    def waited(self) -> float:
        """The share of the time that was spent waiting for data."""
        return self._waited / max(self._clock() - self._begun, 1e-9)

    def shown(self, left: int) -> str:
        """The speed in words, and what it means for so many steps that are left."""
        if not self.unit or not self._steps:
            return ""
        rate = f", {self.rate:,.0f} {self.unit}/s"
        if self._streams or self.waited >= SHOWN:
            rate += f" ({self.waited:.0%} waiting for data)"
        seconds = left * (self._clock() - self._begun) / self._steps
        return f"{rate}, {lasting(seconds)} left"


def lasting(seconds: float) -> str:
    """A time in words.

    Example:
        >>> lasting(70), lasting(7_000)
        ('70 s', '117 min')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
