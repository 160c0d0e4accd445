"""Networks that find objects in images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe.experiment.detection.experiment import (
    DetectionExperiment,
    build_detector,
    load_data,
)
from steppe.experiment.detection.recipe import TASK, DetectionRecipe, parse
from steppe.experiment.tasks import TASKS
from steppe.experiment.tasks.image import ImageTask


@TASKS.register(TASK)
class DetectionTask(ImageTask):
    """A detector; held out and shortened as classifiers are."""

    name = TASK
    experiment = DetectionExperiment
    data = staticmethod(load_data)
    network = staticmethod(build_detector)
    figure = "map50"

    @classmethod
    def owns(cls, recipe: Mapping[str, Any]) -> bool:
        return bool(recipe.get("task") == cls.name)

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> DetectionRecipe:
        return parse(data, where, folder)
