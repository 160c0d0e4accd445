"""Deprecated: import from `steppe.llm.calibration_windows`, the same functions."""

from __future__ import annotations

import warnings

from steppe.llm.calibration_windows import check_vocabulary, sha256, windows

__all__ = ["check_vocabulary", "sha256", "windows"]

warnings.warn(
    "steppe.llm.calibration is now called steppe.llm.calibration_windows",
    DeprecationWarning,
    stacklevel=2,
)
