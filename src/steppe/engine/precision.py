"""Which precision and memory format is the fastest here: measured, chosen, written down."""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError

AUTO = "auto"
MARGIN = 1.1
"""So many times as fast something must be to be chosen in place of float32, contiguous."""
SECONDS, TURNS, LEAST_TURNS = 1.0, 9, 3
SHORT = 30.0
"""Seconds that a run must take in float32 to be worth a measurement of one."""

MOST_IMAGES = 128
"""Of a batch, for a step that is timed."""

LEAST_PRODUCT = 1e8
"""Operations of a product below which its time is not that of the arithmetic."""

DTYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
Clock = Callable[[], float]
Loss = Callable[[Tensor, Tensor], Tensor]


class Setting(NamedTuple):
    """How a step computes.

    Args:
        mixed_precision: no, bf16 or fp16.
        channels_last: the memory format of images and weights.
    """

    mixed_precision: str
    channels_last: bool

    def __str__(self) -> str:
        layout = "channels last" if self.channels_last else "contiguous"
        return f"{'float32' if self.mixed_precision == 'no' else self.mixed_precision}, {layout}"


PLAIN, LOW = Setting("no", False), Setting("bf16", False)


@dataclass(frozen=True)
class Choice:
    """What was chosen, and why.

    Args:
        mixed_precision: no, bf16 or fp16.
        channels_last: the memory format of images and weights.
        why: in a sentence, with what a recipe that insists costs.
        milliseconds: of a training step, by setting; empty where nothing was measured.
    """

    mixed_precision: str
    channels_last: bool
    why: str
    milliseconds: dict[str, float]

    @property
    def settings(self) -> dict[str, Any]:
        """As fields of `steppe.engine.trainer.TrainConfig`."""
        return {"mixed_precision": self.mixed_precision, "channels_last": self.channels_last}

    def record(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)

    @classmethod
    def read(cls, stored: Any) -> Choice:
        """What `record` gave.

        Raises:
            SteppeError: it is something else.
        """
        try:
            chosen = cls(**stored)
        except TypeError:
            chosen = None
        if chosen is None or chosen.mixed_precision not in DTYPES:
            raise SteppeError(
                "the precision that a run began with must be known to go on",
                got=f"{stored!r} in precision.json",
                way_out="another --out",
            )
        return chosen


def turns(
    works: Sequence[Callable[[], Any]],
    limit: int = TURNS,
    unless: Mapping[int, int] | None = None,
    clock: Clock = time.perf_counter,
) -> list[list[float]]:
    """Milliseconds of each piece of work in turns, for about a second or until one turn is done.

    The first work is what the others are compared with. One whose first call takes three times
    as long as the first's slowest takes no further turn: it has one time alone.

    Args:
        works: what is timed; each waits by itself for what it started.
        limit: turns at most.
        unless: a work -> another one; where that is far too slow, the first is not tried.
        clock: what tells the time.

    Returns:
        A list for each piece of work; infinity where it failed.
    """

    def timed(work: Callable[[], Any]) -> float:
        begun = clock()
        try:
            work()
        except (RuntimeError, NotImplementedError):  # no such kernel, or no memory for it
            return float("inf")
        return 1000 * (clock() - begun)

    warm: list[float] = []
    slow: list[bool] = []
    for i, work in enumerate(works):  # the first call of all also pays for what is made once
        left_out = i in (unless or {}) and slow[(unless or {})[i]]
        warm.append(float("inf") if left_out else timed(work))
        slow.append(i > 0 and warm[i] > 3 * warm[0])
    times: list[list[float]] = [[own] if out else [] for own, out in zip(warm, slow, strict=True)]
    start = clock()
    for turn in range(limit):
        spent = clock() - start
        if (turn >= LEAST_TURNS and spent > SECONDS) or (turn and spent > 3 * SECONDS):
            break
        for i, work in enumerate(works):
            if not slow[i]:
                times[i].append(timed(work))
    return times


def choose(times: Mapping[Setting, Sequence[float]], precision: str, layout: bool | str) -> Choice:
    """The setting to train with.

    Where the recipe leaves it open, float32 and contiguous, unless channels last is 1.1 times as
    fast, and then bf16 only if it is 1.1 times as fast as the best in float32: in the median of
    the turns.

    Args:
        times: milliseconds of a step in turns, by setting; float32 and contiguous among them.
        precision: auto, or what the recipe insists on.
        layout: auto, or whether the recipe insists on channels last.

    Example:
        >>> plain, last, low = Setting("no", False), Setting("no", True), Setting("bf16", True)
        >>> choose({plain: [9.0], last: [6.0], low: [5.9]}, "auto", "auto").why
        'float32, channels last: 6 ms a step; float32, contiguous: 9 ms'
    """
    free = _best(times, [s for s in times if s.mixed_precision in ("no", "bf16")])
    allowed = [s for s in times if precision in (AUTO, s.mixed_precision)]
    chosen = _best(times, [s for s in allowed if layout in (AUTO, s.channels_last)])
    medians = {setting: statistics.median(own) for setting, own in times.items()}
    why = f"{chosen}: {medians[chosen]:.3g} ms a step"
    if _ratio(times, chosen, free) >= MARGIN:
        cost = f"{medians[chosen] / medians[free]:.1f} times as long as {free} takes here"
        why += f", {cost}; the recipe insists, auto would not"
    others = [s for s in dict.fromkeys((PLAIN, free)) if s != chosen]
    return Choice(
        chosen.mixed_precision,
        chosen.channels_last,
        "; ".join([why, *(f"{s}: {medians[s]:.3g} ms" for s in others)]),
        {str(s): round(own, 4) for s, own in medians.items() if math.isfinite(own)},
    )


def _ratio(times: Mapping[Setting, Sequence[float]], one: Setting, other: Setting) -> float:
    """How many times as fast the other is, in the median of the turns that both took."""
    pairs = list(zip(times[one], times[other], strict=False))
    return statistics.median(1.0 if a == b else a / b for a, b in pairs)


def _ahead(times: Mapping[Setting, Sequence[float]], one: Setting, other: Setting) -> bool:
    """Whether the other is clearly faster: in the median, and in nearly every turn."""
    pairs = list(zip(times[one], times[other], strict=False))
    won = sum(a > b for a, b in pairs)
    return _ratio(times, one, other) >= MARGIN and won >= len(pairs) - len(pairs) // 5


def _best(times: Mapping[Setting, Sequence[float]], allowed: Sequence[Setting]) -> Setting:
    """The plainest setting, unless another layout, and then bf16, is clearly faster."""
    order = sorted(allowed, key=lambda s: (s.mixed_precision != "no", s.channels_last))
    same = [s for s in order if s.mixed_precision == order[0].mixed_precision]
    best = same[0]
    for setting in same[1:]:
        if _ahead(times, best, setting):
            best = setting
    lower = [s for s in order if s not in same and _ahead(times, best, s)]
    return min(lower, key=lambda s: statistics.median(times[s]), default=best)


def cross_entropy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Of logits in any precision."""
    return F.cross_entropy(outputs.float(), targets)


def settle(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    forward: Callable[[nn.Module, Tensor], Tensor],
    steps: int,
    precision: str,
    layout: bool | str,
    loss: Loss = cross_entropy,
) -> Choice:
    """Measure training steps of copies of the model, and choose.

    The model, the random numbers and the statistics of a GPU's memory stay as they are.

    Args:
        model: on its device.
        batch: inputs and labels there.
        forward: (model, inputs) -> logits.
        steps: of the run; one that is short in float32 is not worth a measurement.
        precision: auto, or what the recipe insists on.
        layout: auto, or whether the recipe insists on channels last.
        loss: (outputs, targets) -> a scalar.
    """
    plain = Setting("no" if precision == AUTO else precision, layout is True)
    tried = [PLAIN, *(Setting(p, last) for p in ("no", "bf16") for last in (False, True)), plain]
    order = list(dict.fromkeys(tried))
    try:
        copies = [copy.deepcopy(model).train() for _ in range(2)]
    except RuntimeError:  # weights that are no leaves cannot be copied
        return Choice(*plain, "not measured: the network cannot be copied", {})
    share = len(batch[0]) / min(len(batch[0]), MOST_IMAGES)
    batch = batch[0][:MOST_IMAGES], batch[1][:MOST_IMAGES]
    works = [_step(copies[s.channels_last], batch, forward, s, loss) for s in order]
    with torch.random.fork_rng():
        if turns(works[:1], limit=1)[0][-1] * steps * share < 1000 * SHORT:
            return Choice(*plain, "not measured: the run is short", {})
        # where bf16 is far too slow, it is so in the other layout too
        times = turns(works, unless={order.index(Setting("bf16", True)): order.index(LOW)})
    if batch[0].is_cuda:
        torch.cuda.reset_peak_memory_stats()
    return choose(dict(zip(order, times, strict=True)), precision, layout)


def _step(
    model: nn.Module,
    batch: tuple[Tensor, Tensor],
    forward: Callable[[nn.Module, Tensor], Tensor],
    setting: Setting,
    loss: Loss,
) -> Callable[[], None]:
    """Forward and backward pass of a batch, waited for."""
    layout = torch.channels_last if setting.channels_last else torch.contiguous_format
    images, labels = batch[0].contiguous(memory_format=layout), batch[1]
    model.to(memory_format=layout)  # type: ignore[call-overload]
    dtype = DTYPES[setting.mixed_precision]

    def step() -> None:
        with torch.autocast(images.device.type, dtype, enabled=dtype is not None):
            outputs = forward(model, images)
        loss(outputs, labels).backward()
        model.zero_grad(set_to_none=True)
        if images.is_cuda:
            torch.cuda.synchronize()

    return step


def bfloat16_ratio(device: torch.device | str, rows: int, width: int) -> float:
    """How many times as fast as in float32 a linear layer's two passes are in bfloat16 here.

    Args:
        device: where to measure.
        rows: tokens that go through it.
        width: of the layer's inputs; it has four times as many outputs.

    Returns:
        The ratio; 1 where the products are too small to tell.
    """
    if 8 * rows * width * width < LEAST_PRODUCT:
        return 1.0
    layer = nn.Linear(width, 4 * width, device="meta").to_empty(device=device)
    inputs = torch.zeros(rows, width, device=device)

    def step(low: bool) -> None:
        with torch.autocast(inputs.device.type, torch.bfloat16, enabled=low):
            outputs = layer(inputs)
        outputs.sum().backward()
        layer.zero_grad(set_to_none=True)
        if inputs.is_cuda:
            torch.cuda.synchronize()

    with torch.no_grad():
        for p in layer.parameters():
            p.zero_()
    plain, low = turns([partial(step, False), partial(step, True)])
    named = {PLAIN: plain, LOW: low}
    ratio = _ratio(named, PLAIN, LOW)
    return ratio if ratio < MARGIN or _ahead(named, PLAIN, LOW) else 1.0
