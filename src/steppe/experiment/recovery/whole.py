"""The whole model at once, distilled from the dense one."""

from __future__ import annotations

from pathlib import Path

from steppe.experiment.causal_lm.recovery import Recovery
from steppe.experiment.recovery import SCOPES
from steppe.llm.recover_config import RecoverConfig


@SCOPES.register("whole")
def whole(folder: str | Path, config: RecoverConfig) -> Recovery:
    """Every position's answer towards that of the dense model."""
    return Recovery.of(folder, config)
