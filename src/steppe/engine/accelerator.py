"""accelerate's engine for a training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

from steppe.core.device import device_of
from steppe.core.errors import SteppeError, unknown

if TYPE_CHECKING:
    from steppe.engine.trainer import TrainConfig


def make_accelerator(config: TrainConfig, device: str | None, folder: str) -> Accelerator:
    """accelerate's engine for a config; one process may run several after another.

    Raises:
        SteppeError: the device is not here, or a tracker.
    """
    _check(config.trackers)
    if device is not None:
        device_of(device)
    state = AcceleratorState._shared_state
    if state and state.get("_mixed_precision") != config.mixed_precision:
        AcceleratorState._reset_state()  # it refuses a second precision in one process
    return Accelerator(
        mixed_precision=config.mixed_precision,
        cpu=device == "cpu",
        log_with=list(config.trackers) or None,
        project_dir=folder,
    )


def _check(trackers: Sequence[str]) -> None:
    """accelerate passes over those that are not installed."""
    installed = set(map(str, get_available_trackers()))
    for name in trackers:
        if name not in LOGGER_TYPE_TO_CLASS:
            raise unknown("tracker", name, LOGGER_TYPE_TO_CLASS)
        if name not in installed:
            raise SteppeError(
                "a tracker must be installed",
                got=f"{name}, which is not",
                consequence="it would silently get no metrics",
                way_out=f"pip install {name}, or leave it out",
            )
