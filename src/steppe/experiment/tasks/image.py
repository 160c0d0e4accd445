"""Networks that classify images."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from steppe.experiment import recipe as written
from steppe.experiment.experiment import Experiment, build_model, load_data
from steppe.experiment.latency_command import check_table
from steppe.experiment.tasks import TASKS, Quality

HELD_OUT = 0.1
"""The share of the training images by which options are chosen, where a recipe holds out none."""


@TASKS.register("image")
class ImageTask:
    """A classifier of images; what a recipe without ``task`` means."""

    name = "image"
    experiment: ClassVar[type[Experiment]] = Experiment
    data: ClassVar[Callable[..., Any]] = staticmethod(load_data)
    network: ClassVar[Callable[..., nn.Module]] = staticmethod(build_model)
    figure: ClassVar[str] = "accuracy"
    """By which runs are compared; more is better."""

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
        cls.check(recipe)
        check_table(recipe, out)
        return cls.train_on(cls.data(recipe), recipe, out, quiet)

    @classmethod
    def check(cls, recipe: written.Recipe) -> None:
        """A bad method fails before data are read."""
        recipe.build_method()
        recipe.train.config()

    @classmethod
    def train_on(
        cls, data: Any, recipe: written.Recipe, out: Path | None, quiet: bool
    ) -> dict[str, Any]:
        """As `train`, on data that are read already: those of the recipe."""
        record, _, _ = cls.experiment(recipe, data, out, quiet).train()
        return record

    @classmethod
    def opened(cls, recipe: written.Recipe) -> tuple[Any, nn.Module]:
        start = recipe.model.model_copy(update={"weights": None})  # its own weights come later
        data = cls.data(recipe, say=lambda note: None)  # the run has said it
        bare = recipe.model_copy(update={"model": start})
        return data, cls.network(bare, data, say=lambda note: None)

    @classmethod
    def quality(cls, recipe: written.Recipe) -> Quality:
        return Quality(
            name=cls.figure,
            of=f"the {recipe.evaluate} images",
            place=("sparse", cls.figure),
            higher=True,
            unseen=recipe.evaluate == "validation",
        )

    @classmethod
    def on_held_out(cls, plain: Mapping[str, Any]) -> dict[str, Any]:
        data = plain["data"] | {"validation": plain["data"]["validation"] or HELD_OUT}
        return {**plain, "data": data, "evaluate": "validation"}

    @classmethod
    def shortened(cls, plain: Mapping[str, Any], fraction: float) -> dict[str, Any]:
        """Of the epochs; the warm-up keeps its share."""
        train = plain["train"]
        epochs = max(round(train["epochs"] * fraction), 1)
        warmup = train["warmup_epochs"] * epochs / train["epochs"]
        return {**plain, "train": train | {"epochs": epochs, "warmup_epochs": warmup}}
