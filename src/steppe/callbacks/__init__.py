"""Sparse training inside other libraries' loops: transformers' Trainer and Lightning.

Names: `TrainerSparsifier` and `MaskCallback` (transformers), `LightningSparsifier` (Lightning).
Each is built when it is asked for: those libraries are slow to import and optional.
"""

from __future__ import annotations

from typing import Any

from steppe.callbacks.lightning_sparsifier import lightning_sparsifier
from steppe.callbacks.mask_callback import mask_callback
from steppe.callbacks.trainer_sparsifier import trainer_sparsifier

_BUILT = {
    "LightningSparsifier": lightning_sparsifier,
    "MaskCallback": mask_callback,
    "TrainerSparsifier": trainer_sparsifier,
}
__all__ = ["LightningSparsifier", "MaskCallback", "TrainerSparsifier"]


def __getattr__(name: str) -> Any:
    if name in _BUILT:
        return _BUILT[name]()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
