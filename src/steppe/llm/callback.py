"""Deprecated: `MaskCallback` is in `steppe.callbacks`."""

from __future__ import annotations

import warnings
from typing import Any

from steppe import callbacks


def __getattr__(name: str) -> Any:
    if name != "MaskCallback":
        raise AttributeError(name)
    warnings.warn(
        "steppe.llm.callback.MaskCallback is now steppe.callbacks.MaskCallback",
        DeprecationWarning,
        stacklevel=2,
    )
    return callbacks.MaskCallback
