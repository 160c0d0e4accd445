"""What a recovery of a pruned language model may be asked for: one declaration, validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from pydantic import Field, model_validator

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.trained import TRAINED
from steppe.llm.prune_config import PruneConfig


class RecoverConfig(PruneConfig):
    """Everything about a recovery but the pruned model's folder.

    `steppe.recover` takes these fields as keywords; the options of ``steppe recover`` are made
    from them. Where ``reconstruction`` names no learning rate it is that of what is trained.

    Example:
        >>> RecoverConfig.of(train="norms").reconstruction.lr
        0.01
    """

    dense: str | Path | None = Field(
        None, description="the dense model: folder or hub id [the one that steppe prune pruned]"
    )
    train: str = Field("weights", description="what is trained: weights, norms or lora")
    rank: int = Field(8, description="lora: of the adapters")
    held_out: float = Field(0.125, description="share of the windows that judge the training")
    out: Path = Field(Path("recovered"), description="the new folder")
    verb: ClassVar[str] = "recover"

    @model_validator(mode="before")
    @classmethod
    def _with_learning_rate(cls, values: dict[str, Any]) -> dict[str, Any]:
        asked = values.get("reconstruction", {})
        if not isinstance(asked, Mapping):
            return values
        usual = {"lr": TRAINED[str(values.get("train", "weights"))].lr}
        return values | {"reconstruction": usual | dict(asked)}

    @model_validator(mode="after")
    def _possible(self) -> RecoverConfig:
        if self.regrow or self.recover:
            raise SteppeError(
                "a recovery keeps every zero, and is done once",
                got=f"regrow={self.regrow}, recover={self.recover}",
                way_out="leave both out",
            )
        if self.rank < 1 or not 0.0 <= self.held_out < 1.0:
            raise SteppeError(
                "adapters have a rank of 1 at least, and the share held out is below 1",
                got=f"rank {self.rank}, held_out {self.held_out}",
                way_out="rank 8 (--rank 8), held_out 0.125 (--held-out 0.125)",
            )
        return self

    @property
    def settings(self) -> dict[str, Any]:
        """What decides the result beside what every walk has, as plain data."""
        plain = {"train": self.train, "rank": self.rank, "held_out": self.held_out}
        fit = dataclasses.asdict(self.reconstruction)
        return plain | {"fit": fit | {"betas": list(fit["betas"])}}

    def judged_on(self, windows: int) -> int:
        """Of so many windows, how many the training does not see."""
        return min(max(1, round(self.held_out * windows)), windows - 1) if self.held_out else 0
