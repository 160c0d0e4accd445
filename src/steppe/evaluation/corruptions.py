"""Accuracy of an image model on corrupted images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from steppe.evaluation import EVALUATIONS, Evaluation
from steppe.experiment.image_run import ImageRun
from steppe.robustness.corrupted import accuracy_under_corruption, parse_selection


@EVALUATIONS.register("corruptions")
@dataclass(frozen=True, kw_only=True)
class Corruptions(Evaluation):
    """Accuracy for each corruption at each severity, and the mean.

    Args:
        part: test, validation or train.
        corruptions: names, comma-separated; all 19 if none are given.
        severities: of 1 to 5, comma-separated.
        corrupted: a folder of published images (CIFAR-10-C: name.npy and labels.npy; ImageNet-C:
            name/severity/class/image), or a dataset's id, to use instead of corrupting the run's
            own.
        limit: images at most; of the run's own, where published ones are used: those are used
            whole.
        seed: of what is random.
    """

    part: str = "test"
    corruptions: str | None = None
    severities: str = "1,2,3,4,5"
    corrupted: str | None = None
    limit: int | None = None
    seed: int = 0

    def measure(self) -> dict[str, Any]:
        """Accuracies, their means, and relative robustness acc_C / acc_val."""
        names, severities = parse_selection(self.corruptions, self.severities)
        run = ImageRun.read(self.run, self.device, "corruptions")
        images, labels = run.pixels(self.part, self.limit)
        with torch.no_grad():
            return accuracy_under_corruption(
                run.on_pixels,
                images,
                labels,
                names=names,
                severities=severities,
                published=self.corrupted,
                seed=self.seed,
            )

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """Mean accuracy, and what is worst."""
        worst = min(result["accuracy"], key=lambda n: min(result["accuracy"][n].values()))
        return (
            f"accuracy {result['mean']:.2%} on corrupted images, {result['clean']:.2%} on clean "
            f"ones (R_C {result['relative']:.3f}); worst: {worst}"
        )
