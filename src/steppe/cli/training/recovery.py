"""``steppe train`` for the recipe of a recovery as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe.cli.main import say
from steppe.cli.recovered import show
from steppe.cli.recovering import watched_work
from steppe.cli.training import TRAININGS
from steppe.cli.training.causal_lm import LanguageTraining
from steppe.core.courtesy import NOT_COMPUTED, courtesy
from steppe.evaluation import read_record
from steppe.experiment.causal_lm.recovery import Recovery
from steppe.experiment.causal_lm.recovery_recipe import TASK, RecoveryRecipe, parse

_FLAGS = ("data", "window", "tokens", "batch_size", "accumulate", "lr", "evaluate")


@TRAININGS.register(TASK)
class RecoveryTraining:
    """Flags of a recovery's training: those of a language model's that it has a use for."""

    schema = RecoveryRecipe
    flags = {name: LanguageTraining.flags[name] for name in (*_FLAGS, "seed", "device")}

    @classmethod
    def begin(cls, model: str) -> dict[str, Any]:
        raise AssertionError(f"{model} alone is no recovery")

    @classmethod
    def put(cls, plain: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Every flag has its place."""

    @classmethod
    def run(
        cls, plain: dict[str, Any], given: Mapping[str, Any], out: Path | None, *, quiet: bool
    ) -> dict[str, Any]:
        recipe = parse(plain)
        if out is None:
            out = Path("runs") / f"{Path(recipe.model.name).name}-recovered-seed{recipe.seed}"
            say(f"writing to {out}", quiet)
        earlier = read_record(str(out)) if (out / "record.json").exists() else None
        finished = bool(earlier) and NOT_COMPUTED not in (earlier or {})
        record = watched_work(Recovery(recipe, out, quiet), finished, quiet)
        if finished:
            say(f"{out} was finished before; nothing to do", quiet)
        with courtesy("the summary"):
            show(record, out, quiet)
        return record | {"out": str(out)}
