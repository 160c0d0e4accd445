"""Time one forward pass of a module on this machine."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from steppe.core.processor import processor
from steppe.removal.forward import call

Timing = tuple[float, float, float]
"""Lower quartile, median and interquartile range, ms."""
Timer = Callable[[nn.Module, Any], Timing]
"""Times a module on its inputs."""

_SETTLED = 31 * 2**20  # glibc raises its thresholds up to blocks of 32 MiB


def settle() -> None:
    """Let the C library keep freed memory, so that page faults are not part of what is timed.

    glibc serves blocks smaller than the largest one ever freed from memory that the process
    already has. So one large block is freed first, and later timings are comparable. Other C
    libraries may ignore it.
    """
    torch.ones(_SETTLED, dtype=torch.uint8)


def timed(
    module: nn.Module, inputs: Any, *, repeats: int = 15, seconds: float = 0.5, tries: int = 3
) -> Timing:
    """Lower quartile, median and interquartile range of a module's time, in ms.

    The lower quartile is the median of the faster half. It is the time without other programs, as
    long as more than a quarter of the repeats ran undisturbed.

    Args:
        module: in eval mode.
        inputs: see `steppe.removal.forward.call`.
        repeats: as many as fit into ``seconds``, at least 9 and at most this.
        seconds: see ``repeats``.
        tries: a range above a tenth of the median means that something else was running. Then it
            is measured again, at most ``tries`` times in all, and the fastest counts.
    """
    devices = [p.device for p in module.parameters()] or [torch.device("cpu")]
    cuda = devices[0].type == "cuda"

    def once() -> float:
        if cuda:
            torch.cuda.synchronize()
        start = time.perf_counter()
        call(module, inputs)
        if cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - start)

    best = (math.inf, 0.0, 0.0)
    with torch.no_grad():
        settle()
        for _ in range(3):
            milliseconds = once()
        count = max(9, min(repeats, int(1000 * seconds / max(milliseconds, 1e-6))))
        for _ in range(tries):
            low, middle, high = statistics.quantiles([once() for _ in range(count)], n=4)
            best = min(best, (low, middle, high - low))
            if high - low <= 0.1 * middle:
                break
    return best


def conditions(model: nn.Module) -> dict[str, Any]:
    """What a time depends on beside the network: device, threads, dtype, layout, torch."""
    parameter = next(model.parameters())
    cuda = parameter.device.type == "cuda"
    device = torch.cuda.get_device_name(parameter.device) if cuda else processor()
    return {
        "device": device,
        # a GPU's time does not depend on the threads beside it
        "threads": None if cuda else torch.get_num_threads(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "layout": "channels last" if layout_of(model) is torch.channels_last else "contiguous",
        "torch": torch.__version__,
    }


def layout_of(model: nn.Module) -> torch.memory_format:
    """The memory format of a model's convolutions of images."""
    # 1 x 1 kernels are both, and decide nothing
    last = any(p.ndim == 4 and not p.is_contiguous() for p in model.parameters())
    return torch.channels_last if last else torch.contiguous_format
