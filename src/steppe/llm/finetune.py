"""Deprecated: the former name of `steppe.engine.mask_keeper`."""

from __future__ import annotations

import warnings

from steppe.engine.mask_keeper import MASKS, MaskKeeper, named_weights, plain_name, read_masks

__all__ = ["MASKS", "MaskKeeper", "named_weights", "plain_name", "read_masks"]

warnings.warn(
    "steppe.llm.finetune is now called steppe.engine.mask_keeper, and MaskKeeper steppe.MaskKeeper",
    DeprecationWarning,
    stacklevel=2,
)
