"""Causal language models, trained as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe import recipes
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import TASK, LanguageRecipe, parse
from steppe.experiment.tasks import TASKS


@TASKS.register(TASK)
class CausalLMTask:
    """A language model in a folder, or of the hub."""

    name = TASK

    @classmethod
    def owns(cls, recipe: Mapping[str, Any]) -> bool:
        return bool(recipe.get("task") == cls.name)

    @classmethod
    def claims(cls, model: str) -> bool:
        """A folder with config.json, or what looks like a hub id: ``owner/name``.

        Not the name of a file, nor one that begins like recipes of steppe, such as ``safe/cifar``.
        """
        path = Path(model)
        owner, slash, name = model.partition("/")
        hub = bool(slash) and "/" not in name and path.suffix not in {".yaml", ".yml"}
        taken = {".", "..", "", *(recipe.partition("/")[0] for recipe in recipes.names())}
        return path.is_dir() or (hub and not path.exists() and owner not in taken)

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> LanguageRecipe:
        return parse(data, where, folder)

    @classmethod
    def train(cls, recipe: LanguageRecipe, out: Path | None, quiet: bool) -> dict[str, Any]:
        record, _ = LanguageExperiment(recipe, out, quiet).train()
        return record
