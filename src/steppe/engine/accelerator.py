"""accelerate's engine for a training."""

from __future__ import annotations

from typing import TYPE_CHECKING

from accelerate import Accelerator
from accelerate.state import AcceleratorState

from steppe.core.device import device_of

if TYPE_CHECKING:
    from steppe.engine.trainer import TrainConfig


def make_accelerator(config: TrainConfig, device: str | None, folder: str) -> Accelerator:
    """accelerate's engine for a config; one process may run several after another."""
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
