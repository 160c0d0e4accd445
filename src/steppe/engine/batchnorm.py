"""Deprecated: the former name of `steppe.engine.step.batchnorm`."""

from __future__ import annotations

import warnings

from steppe.engine.step.batchnorm import reestimate
from steppe.engine.step.buffers import restored_buffers as frozen_statistics

__all__ = ["frozen_statistics", "reestimate"]

warnings.warn(
    "steppe.engine.batchnorm is now called steppe.engine.step.batchnorm",
    DeprecationWarning,
    stacklevel=2,
)
