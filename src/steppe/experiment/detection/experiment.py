"""A detector's recipe, run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from steppe.core.courtesy import Decoration
from steppe.core.notes import note
from steppe.engine.step.finished import advice, gentler
from steppe.engine.trainer import Batches
from steppe.engine.training_task import TrainingTask
from steppe.experiment.detection.measured import measured
from steppe.experiment.detection.recipe import DetectionRecipe
from steppe.experiment.ending import Ending
from steppe.experiment.experiment import Experiment, seed_everything
from steppe.vision.detection.data import DetectionData, load
from steppe.vision.detection.loader import DetectionLoader
from steppe.vision.detection.models import build
from steppe.vision.detection.reading import Reading, outputs_of, reading_of
from steppe.vision.models import start_from

TESTED = 16
"""Images of a batch that is only measured: they are large."""
LOST, FAILED = 0.02, 0.01
"""Of the mean precision: lost by the last cut, so that it is said; below which a run has failed."""


def load_data(recipe: DetectionRecipe, say: Callable[[str], object] = note) -> DetectionData:
    """The recipe's images.

    Args:
        recipe: of the run.
        say: called with each sentence on what was left out or read in one of several ways.
    """
    spec = recipe.data
    options = {key: getattr(spec, key) for key in type(spec).model_fields if key != "workers"}
    return load(options.pop("name"), **options, say=say)


def build_detector(
    recipe: DetectionRecipe, data: DetectionData, say: Callable[[str], object] = note
) -> nn.Module:
    """The recipe's network with its starting weights.

    Args:
        recipe: of the run.
        data: its images.
        say: called with a sentence where a head starts at random.
    """
    seed_everything(recipe.seed)
    options = recipe.model.given
    model = build(recipe.model.name, data.num_classes, data.shape, say=say, **options)
    if recipe.model.weights is not None:
        for sentence in start_from(model, recipe.model.weights):
            say(sentence)
    return model


@dataclass(frozen=True, kw_only=True)
class Detection:
    """Images with objects: a `steppe.engine.training_task.TrainingTask`.

    Args:
        reading: what the outputs of the network mean.
        label_smoothing: of the classes.
        shared: whether a batch is one of several processes, who all compute its loss.
    """

    reading: Reading
    label_smoothing: float = 0.0
    shared: bool = False
    unit = "images"
    records_pace = False
    period = "epoch"
    quality = "mean precision"

    def count(self, inputs: Tensor) -> int:
        return len(inputs)

    def forward(self, model: nn.Module, inputs: Tensor) -> Tensor:
        return outputs_of(model, inputs)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.reading.loss(outputs, targets, self.label_smoothing, self.shared)

    def accuracy(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return self.reading.accuracy(outputs, targets)

    def settle(self, model: nn.Module) -> None:
        """Its files hold float32."""


class DetectionEnding(Ending):
    """What a detector's record gets once the run is saved."""

    def of_data(self) -> dict[str, Decoration]:
        return {}

    def doubts(self) -> list[str]:
        method, after = self.recipe.build_method(), self.outcome.after
        if not after:
            return []
        if after["map50"] < FAILED:
            sparse = "a lower sparsity, " if method.sparsity else ""
            return [
                f"a mean precision of {after['map50']:.3f} is that of a network that finds nothing:"
                f" the run has failed; try {sparse}{gentler(method)}, or train longer"
            ]
        lost = self.outcome.before.get("map50", 0.0) - after["map50"]
        if lost < LOST or self.outcome.finished.distance == 0.0:
            return []
        return [
            f"the last projection cost {lost:.3f} of the mean precision and moved the weights by "
            f"{self.outcome.finished.distance:.1%}; way out: {advice(method)}"
        ]


@dataclass
class DetectionExperiment(Experiment):
    """A recipe of a detector made ready: `train` runs it."""

    recipe: DetectionRecipe
    data: DetectionData  # type: ignore[assignment]

    ending: ClassVar[type[Ending]] = DetectionEnding
    quality: ClassVar[str] = "map50"

    def network(self) -> nn.Module:
        return build_detector(self.recipe, self.data, self.notes.append)

    def loader(self, part: str, batch_size: int, **options: Any) -> Batches:
        together = options.get("world", 1)
        few = max(TESTED // together, 1) * together
        size = batch_size if part == "train" else min(batch_size, few)
        usual: dict[str, Any] = {"workers": self.recipe.data.workers}
        return DetectionLoader.of(self.data, part, size, **(usual | options))

    @property
    def measures_shares(self) -> bool:
        return True

    def task(self, model: nn.Module, shared: bool = False) -> TrainingTask:
        smoothing = self.recipe.train.label_smoothing
        return Detection(reading=reading_of(model), label_smoothing=smoothing, shared=shared)

    def measured(self, model: nn.Module, batches: Any) -> dict[str, Any]:
        return measured(model, batches, self.data.classes)
