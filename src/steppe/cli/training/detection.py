"""``steppe train`` for detectors of objects."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from steppe.cli.training import TRAININGS, Flag
from steppe.cli.training.image import ImageTraining, Say
from steppe.experiment.detection.experiment import DetectionExperiment, load_data
from steppe.experiment.detection.recipe import TASK, DetectionRecipe, parse
from steppe.experiment.experiment import Experiment
from steppe.experiment.recipe import Recipe


@TRAININGS.register(TASK)
class DetectionTraining(ImageTraining):
    """Flags of a detector's training: those of a classifier's, and what boxes need."""

    schema = DetectionRecipe
    measures = "clean,corruptions"
    flags = ImageTraining.flags | {
        "data": Flag("data.name", str, "voc:FOLDER, coco:FOLDER or hub:OWNER/NAME"),
        "size": Flag("data.size", int, "height and width that images are scaled to [300]"),
        "skip_invalid": Flag("data.skip_invalid", bool, "leave bad boxes out, with a count"),
        "workers": Flag("data.workers", int, "processes that decode images [0]"),
    }

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Recipe:
        return parse(plain | {"task": TASK})

    @classmethod
    def experiment(cls, recipe: Any, out: Path, say: Say, quiet: bool) -> Experiment:
        return DetectionExperiment(recipe, load_data(recipe, say=say), out, quiet, say=say)

    @classmethod
    def folder(cls, recipe: Recipe) -> str:
        return f"{recipe.model.name.replace('/', '-')}-{super().folder(recipe)}"

    @classmethod
    def quality(cls, record: dict[str, Any]) -> str:
        sparse, before = record["sparse"], record["before_projection"]
        if "map50" not in sparse:
            return ""
        cut = f" (before the last projection {before['map50']:.3f})" if "map50" in before else ""
        each = ", ".join(
            f"{name} {own['map50']:.3f}"
            for name, own in sparse["classes"].items()
            if own["map50"] is not None
        )
        return (
            f"mean precision at overlap 0.5 {sparse['map50']:.3f}"
            f"{'' if record['method'] == 'dense' else cut}, over 0.5 to 0.95 {sparse['map']:.3f} "
            f"on {record['evaluated_on']}: {each}"
        )
