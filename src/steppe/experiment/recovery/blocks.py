"""Block by block, with one block of each model in memory."""

from __future__ import annotations

from pathlib import Path

from steppe.experiment.recovery import SCOPES
from steppe.llm.recover import PreparedRecovery
from steppe.llm.recover_config import RecoverConfig


@SCOPES.register("blocks")
def blocks(folder: str | Path, config: RecoverConfig) -> PreparedRecovery:
    """Attention and feed-forward of each block towards the dense model's hidden states."""
    return PreparedRecovery(folder, config)
