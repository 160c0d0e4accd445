"""Networks that classify images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe.experiment import recipe as written
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.tasks import TASKS


@TASKS.register("image")
class ImageTask:
    """A classifier of images; what a recipe without ``task`` means."""

    name = "image"

    @classmethod
    def owns(cls, recipe: Mapping[str, Any]) -> bool:
        return bool(recipe.get("task", cls.name) == cls.name)

    @classmethod
    def claims(cls, model: str) -> bool:
        """Networks of images are named with ``--model``."""
        return False

    @classmethod
    def load(cls, data: Mapping[str, Any], where: str, folder: Path | None) -> written.Recipe:
        return written.parse(dict(data), where, folder)

    @classmethod
    def train(cls, recipe: written.Recipe, out: Path | None, quiet: bool) -> dict[str, Any]:
        recipe.build_method()  # a bad method fails before data are read
        recipe.train.config()
        record, _, _ = Experiment(recipe, load_data(recipe), out, quiet).train()
        return record
