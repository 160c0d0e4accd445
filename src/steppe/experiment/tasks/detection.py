"""Networks that find objects in images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from steppe.experiment.detection.experiment import (
    DetectionExperiment,
    build_detector,
    load_data,
)
from steppe.experiment.detection.recipe import TASK, DetectionRecipe, parse
from steppe.experiment.tasks import TASKS, Quality
from steppe.experiment.tasks.image import ImageTask


@TASKS.register(TASK)
class DetectionTask(ImageTask):
    """A detector; held out and shortened as classifiers are."""

    name = TASK

    @classmethod
    def owns(cls, recipe: Mapping[str, Any]) -> bool:
        return bool(recipe.get("task") == cls.name)

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> DetectionRecipe:
        return parse(data, where, folder)

    @classmethod
    def train(cls, recipe: Any, out: Path | None, quiet: bool) -> dict[str, Any]:
        recipe.build_method()  # a bad method fails before data are read
        recipe.train.config()
        record, _, _ = DetectionExperiment(recipe, load_data(recipe), out, quiet).train()
        return record

    @classmethod
    def opened(cls, recipe: Any) -> tuple[Any, nn.Module]:
        start = recipe.model.model_copy(update={"weights": None})  # its own weights come later
        data = load_data(recipe, say=lambda note: None)  # the run has said it
        bare = recipe.model_copy(update={"model": start})
        return data, build_detector(bare, data, say=lambda note: None)

    @classmethod
    def quality(cls, recipe: Any) -> Quality:
        return Quality(
            name="map50",
            of=f"the {recipe.evaluate} images",
            place=("sparse", "map50"),
            higher=True,
            unseen=recipe.evaluate == "validation",
        )
