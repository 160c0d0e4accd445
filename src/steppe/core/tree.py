"""Deprecated: the former name of `steppe.core.serialization`."""

from __future__ import annotations

import warnings

from steppe.core.serialization import load_state as load_tree
from steppe.core.serialization import save_state as save_tree

__all__ = ["load_tree", "save_tree"]

warnings.warn(
    "steppe.core.tree is now called steppe.core.serialization", DeprecationWarning, stacklevel=2
)
