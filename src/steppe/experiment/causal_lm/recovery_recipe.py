"""What a recovery of a whole pruned model is, written down and validated."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from steppe.core.errors import SteppeError
from steppe.engine.blockwise.trained import TRAINED
from steppe.experiment.causal_lm.recipe import LanguageRecipe, LanguageTrainSpec, read
from steppe.experiment.strict import Strict
from steppe.method import Method

TASK = "recovery"
DISTILLED = Method(
    name="recover",
    budget={"name": "uniform", "sparsity": 0.0},
    coupling="none",
    objective={"name": "distillation", "temperature": 1.0, "weight": 1.0},
)
"""Nothing is pruned any more, and the dense model's answers are all that is learned from."""


class RecoverSpec(Strict):
    """What is trained, and when it ends."""

    train: str = "weights"
    """Weights, or norms (with biases) alone."""
    held_out: float = Field(default=0.125, gt=0.0, lt=1.0)
    """The share of the text, its end, on which the best state is chosen."""
    patience: int = Field(default=2, ge=1)
    """Parts without a lower loss on it after which the training ends."""
    dense: str | None = None
    """Fingerprint of the dense model's files, as a run found them."""

    @field_validator("train")
    @classmethod
    def _known(cls, value: str) -> str:
        if TRAINED[value].lr_of_whole is None:
            raise SteppeError(
                "a whole model is trained in its own parameters",
                got=f"recover.train {value}",
                way_out="recover.train weights; --scope blocks for the other",
            )
        return value


class RecoveryRecipe(LanguageRecipe):
    """A pruned language model led back to its dense one as a whole, every zero kept.

    ``model.name`` is the pruned model, ``model.teacher`` the dense one.
    """

    task: Literal["recovery"] = "recovery"  # type: ignore[assignment]
    method: dict[str, Any] = DISTILLED.to_dict()
    train: LanguageTrainSpec = LanguageTrainSpec(tokens=10_000_000)
    recover: RecoverSpec = RecoverSpec()

    def as_today(self, stored: Any) -> Any:
        try:
            return parse(stored).plain()
        except SteppeError:
            return stored


def parse(data: Any, where: str = "the recipe", folder: Path | None = None) -> RecoveryRecipe:
    """A recipe from plain data; see `steppe.experiment.causal_lm.recipe.parse`."""
    recipe = read(RecoveryRecipe, data, where, folder)
    if recipe.build_method().sparsity:
        raise SteppeError(
            "a recovery prunes nothing",
            got=f"method {recipe.build_method().name} of sparsity {recipe.build_method().sparsity}",
            way_out="leave method out, or task: causal_lm",
        )
    return recipe
