"""Deprecated: the former name of `steppe.engine.step.batchnorm`."""

from __future__ import annotations

import warnings

from steppe.engine.step.batchnorm import frozen_statistics, reestimate

__all__ = ["frozen_statistics", "reestimate"]

warnings.warn(
    "steppe.engine.batchnorm is now called steppe.engine.step.batchnorm",
    DeprecationWarning,
    stacklevel=2,
)
