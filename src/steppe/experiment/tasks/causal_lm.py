"""Causal language models, trained as a whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from steppe import recipes
from steppe.core.errors import SteppeError
from steppe.core.hub_names import is_hub_id
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import TASK, LanguageRecipe, parse
from steppe.experiment.tasks import TASKS, Quality
from steppe.llm.whole_training.prepared import HELD_OUT

SHARE = 0.05
"""Of the windows by which options are chosen, where a recipe holds out none."""


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
        owner = model.partition("/")[0]
        hub = is_hub_id(model) and path.suffix not in {".yaml", ".yml"}
        taken = {".", "..", "", *(recipe.partition("/")[0] for recipe in recipes.names())}
        return path.is_dir() or (hub and not path.exists() and owner not in taken)

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> LanguageRecipe:
        return parse(data, where, folder)

    @classmethod
    def train(cls, recipe: LanguageRecipe, out: Path | None, quiet: bool) -> dict[str, Any]:
        record, _ = LanguageExperiment(recipe, out, quiet).train()
        return record

    @classmethod
    def opened(cls, recipe: LanguageRecipe) -> tuple[Any, nn.Module]:
        raise SteppeError(
            "a run of images is measured so",
            got=f"a language model, {recipe.model.name}",
            way_out="--on perplexity --text FILE",
        )

    @classmethod
    def quality(cls, recipe: LanguageRecipe) -> Quality:
        """Perplexity on what is held out, or else on the first text that is measured."""
        held = bool(recipe.data.held_out)
        if not (held or recipe.evaluate.texts):
            raise SteppeError(
                "runs are compared by what is measured after them",
                got="a recipe that measures nothing",
                way_out="--held-out, or --set evaluate=FILE",
            )
        return Quality(
            name="perplexity",
            of="windows held out of the text" if held else recipe.evaluate.texts[0],
            place=("sparse", "texts", HELD_OUT if held else recipe.evaluate.texts[0], "perplexity"),
            higher=False,
            unseen=held,
        )

    @classmethod
    def on_held_out(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        data = plain["data"] | {"held_out": plain["data"]["held_out"] or SHARE}
        return {**plain, "data": data, "evaluate": plain["evaluate"] | {"texts": []}}

    @classmethod
    def shortened(cls, plain: Mapping[str, Any], fraction: float) -> dict[str, Any]:
        """Of the tokens."""
        train = plain["train"]
        return {**plain, "train": train | {"tokens": math.ceil(train["tokens"] * fraction)}}
