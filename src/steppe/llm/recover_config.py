"""What a recovery of a pruned language model may be asked for: one declaration, validated."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.blockwise.trained import TRAINED
from steppe.llm.prune_config import PruneConfig

_ONLY = {
    "blocks": ("samples", "micro_batch", "measure", "streamed", "whole_text", "rank"),
    "whole": ("tokens", "parts", "patience", "accumulate", "checkpointing", "shard"),
}
"""Scope -> the options that no other one has."""
_INSTEAD = {"samples": "--tokens 10M", "epochs": "--tokens 10M", "tokens": "--samples 512"}


def _not_here(name: str, scope: str) -> SteppeError:
    flag = f"--{name.replace('_', '-')}"
    other = "blocks" if scope == "whole" else "whole"
    return SteppeError(
        f"{flag} is an option of --scope {other}",
        got=f"--scope {scope}",
        way_out=f"--scope {other}, or {_INSTEAD.get(name, 'leave it out')}"
        + (" instead" if name in _INSTEAD else ""),
    )


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
    scope: Literal["blocks", "whole"] = Field(
        "blocks", description="what is trained at a time: blocks, or the whole model"
    )
    tokens: int | str = Field("10M", description="whole: of the whole run")
    parts: int = Field(8, description="whole: measurements of what is held out")
    patience: int = Field(2, description="whole: parts without a gain after which it ends")
    accumulate: int = Field(1, description="whole: passes in a step")
    checkpointing: bool = Field(False, description="whole: compute blocks twice, keep less")
    shard: bool = Field(False, description="whole: split over the processes (FSDP2)")
    verb: ClassVar[str] = "recover"

    @model_validator(mode="before")
    @classmethod
    def _with_learning_rate(cls, values: dict[str, Any]) -> dict[str, Any]:
        asked = values.get("reconstruction", {})
        if not isinstance(asked, Mapping):
            return values
        trained = TRAINED[str(values.get("train", "weights"))]
        if values.get("scope") != "whole":
            return values | {"reconstruction": {"lr": trained.lr} | dict(asked)}
        if trained.lr_of_whole is None:
            raise SteppeError(
                "a whole model is trained in its own parameters",
                got=f"--train {values['train']} with --scope whole",
                way_out="--train weights, or --scope blocks",
            )
        return values | {"reconstruction": {"lr": trained.lr_of_whole} | dict(asked)}

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

    @model_validator(mode="after")
    def _of_its_scope(self) -> RecoverConfig:
        """Nothing is asked for that the scope does not know."""
        for name in _ONLY["blocks" if self.scope == "whole" else "whole"]:
            if getattr(self, name) != type(self).model_fields[name].default:
                raise _not_here(name, self.scope)
        passes = ReconstructionConfig.epochs
        if self.scope == "whole" and self.reconstruction.epochs != passes:
            raise _not_here("epochs", self.scope)
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
