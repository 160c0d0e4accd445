"""Deprecated: import from `steppe.robustness.calibration_error`, the same functions."""

from __future__ import annotations

import warnings

from steppe.robustness.calibration_error import (
    Disagreement,
    calibration_error,
    class_accuracy,
    disagreement,
)

__all__ = ["Disagreement", "calibration_error", "class_accuracy", "disagreement"]

warnings.warn(
    "steppe.robustness.calibration is now called steppe.robustness.calibration_error",
    DeprecationWarning,
    stacklevel=2,
)
