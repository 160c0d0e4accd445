"""What a run of a detector is, written down."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field

from steppe.core.errors import SteppeError
from steppe.core.seed import Seed
from steppe.experiment.method_spec import in_full
from steppe.experiment.recipe import ModelSpec, Recipe, TrainSpec, option_of_a_network
from steppe.experiment.strict import Strict
from steppe.experiment.validated import Needed, validated
from steppe.method import Method
from steppe.vision.detection.models import DETECTORS

TASK = "detection"
IMAGES = Needed(
    key="name",
    what="on which images a detector is trained",
    way_out="--data voc:FOLDER, in a recipe data: {name: voc:FOLDER}",
)


class DetectorSpec(ModelSpec):
    """Which network."""

    name: str = "ssd_small"

    @property
    def starts_trained(self) -> bool:
        """Whether training goes on from weights that were trained, as far as can be known."""
        of_hub = self.name not in DETECTORS and ":" not in self.name
        return self.weights is not None or (of_hub and self.pretrained is not False)


class DetectionDataSpec(Strict):
    """Which images with which objects; see `steppe.vision.detection.data.load`."""

    name: str
    size: int = Field(default=300, ge=32)
    train_split: str | None = None
    test_split: str | None = None
    train_size: int | None = None
    test_size: int | None = None
    validation: float | int = 0
    seed: Seed = 0
    classes: tuple[str, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    augment: Any = "ssd"
    """A name, or parts in their order; see `steppe.vision.detection.augment`."""
    value_range: tuple[float, ...] | None = None
    """Stored values that are black and white; None looks at those that are stored."""
    skip_invalid: bool = False
    """Bad boxes are left out, with a count, instead of refused."""
    workers: int = Field(default=0, ge=0)
    """Processes that decode images, for each process that trains; they change nothing."""


class DetectionTrainSpec(TrainSpec):
    """How to train: fewer images a step than of a classifier, and a lower learning rate."""

    batch_size: int = 16
    lr: float = 0.01


class DetectionRecipe(Recipe):
    """A whole run."""

    times_many: ClassVar[bool] = False
    task: Literal["detection"] = TASK  # type: ignore[assignment]
    model: DetectorSpec = DetectorSpec()
    data: DetectionDataSpec  # type: ignore[assignment]
    train: DetectionTrainSpec = DetectionTrainSpec()

    def check_start(self, method: Method) -> None:
        """Whether a detector can be trained so.

        Raises:
            SteppeError: the objective compares outputs of classifiers.
        """
        if "reference_outputs" in method.objective.reads:
            raise SteppeError(
                f"objective {method.objective.name} compares class scores, one set for each input",
                got="a detector, which gives boxes",
                way_out="objective task",
            )

    def plain(self) -> dict[str, Any]:
        """As plain data, every default written out."""
        whole = self.model_dump(mode="json") | {"method": in_full(self.method)}
        if self.model.pretrained is None:
            del whole["model"]["pretrained"]
        if not self._prunes_channels():
            del whole["channels"]
        return whole

    def as_today(self, stored: Any) -> Any:
        """A stored recipe as it is written now; workers may be others, as they change nothing."""
        try:
            there = parse(stored)
        except SteppeError:
            return stored
        plain, own = there.plain(), self.plain()
        same = there.build_method() == self.build_method()
        plain["data"]["workers"] = own["data"]["workers"]
        return plain | ({"method": own["method"]} if same else {})


def parse(data: Any, where: str = "the recipe", folder: Path | None = None) -> DetectionRecipe:
    """A recipe from plain data; with a ``base``, on top of that one.

    Args:
        data: the recipe.
        where: it was read, for messages.
        folder: where the path of a base starts.

    Raises:
        SteppeError: an unknown key (with the nearest), or a value of the wrong type.

    Example:
        >>> parse({"task": "detection", "data": "voc:VOC2007", "method": "gmp"}).data.size
        300
    """
    return validated(
        DetectionRecipe, data, where, folder, needed=IMAGES, explain=option_of_a_network
    )
