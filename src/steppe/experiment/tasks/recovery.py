"""Pruned language models, led back to their dense ones as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe.experiment.causal_lm.recipe import LanguageRecipe
from steppe.experiment.causal_lm.recovery import Recovery
from steppe.experiment.causal_lm.recovery_recipe import TASK, RecoveryRecipe, parse
from steppe.experiment.tasks import TASKS
from steppe.experiment.tasks.causal_lm import CausalLMTask


@TASKS.register(TASK)
class RecoveryTask(CausalLMTask):
    """What ``steppe recover --scope whole`` writes as its recipe."""

    name = TASK

    @classmethod
    def claims(cls, model: str) -> bool:
        """A folder alone is trained by a method."""
        return False

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> RecoveryRecipe:
        return parse(data, where, folder)

    @classmethod
    def train(cls, recipe: LanguageRecipe, out: Path | None, quiet: bool) -> dict[str, Any]:
        assert isinstance(recipe, RecoveryRecipe)
        record, _ = Recovery(recipe, out, quiet).train()
        return record
