"""steppe: neural networks that are sparse and flat.

Public names: `sparsify`, `train`, `prune`, `recover`, `load`, `sparse`, `channel_groups`, `remove`,
`methods`, `Method`, `prunable`, `MaskKeeper`, `SteppeError`.
"""

from __future__ import annotations

from steppe import callbacks, methods, sparse
from steppe.core.errors import SteppeError
from steppe.core.prunable import prunable
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.mask_keeper import MaskKeeper
from steppe.engine.step.finished import Finished
from steppe.engine.step.options import StepOptions
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.sparsify import sparsify
from steppe.experiment.recover import recover
from steppe.experiment.train import train
from steppe.llm.load_sparse import load
from steppe.llm.prune import prune
from steppe.llm.prune_config import PruneConfig
from steppe.llm.recover_config import RecoverConfig
from steppe.method import Method
from steppe.removal.channel_groups import channel_groups
from steppe.removal.remove import remove

__version__ = "0.1.0"
__all__ = [
    "Finished",
    "MaskKeeper",
    "Method",
    "PruneConfig",
    "ReconstructionConfig",
    "RecoverConfig",
    "Sparsifier",
    "StepOptions",
    "SteppeError",
    "callbacks",
    "channel_groups",
    "load",
    "methods",
    "prunable",
    "prune",
    "recover",
    "remove",
    "sparse",
    "sparsify",
    "train",
]
