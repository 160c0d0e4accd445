"""Mean precisions of a detector on its images."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from steppe.core.mask import count_zeros
from steppe.evaluation.base import Evaluation, read_record
from steppe.evaluation.detection import DETECTION
from steppe.experiment.detection.measured import measured
from steppe.experiment.detection.run import DetectionRun
from steppe.vision.detection.examples import SHOWN


@DETECTION.register("clean")
@dataclass(frozen=True, kw_only=True)
class CleanDetection(Evaluation):
    """Mean average precisions and loss of a run's weights, class by class.

    Args:
        part: test, validation or train.
        beside: another run on the same images, usually the dense one.
    """

    part: str = "test"
    beside: str | None = None

    def measure(self) -> dict[str, Any]:
        """The keys of `mean_precisions`, the loss, a few images; those of the other run."""
        run = DetectionRun.read(self.run, self.device)
        other = None if self.beside is None else run.beside(self.beside, self.part)
        result = measured(run.model, run.loader(self.part), run.data.classes)
        result |= {"part": self.part, "zeros": count_zeros(dict(run.model.named_parameters()))}
        first = next(iter(run.pixels(self.part, SHOWN)))
        result["examples"] = run.examples(*first)
        if other is not None:
            theirs = measured(other.model, other.loader(self.part), other.data.classes)
            method = read_record(str(self.beside)).get("method", "dense")
            result["beside"] = {"run": self.beside, "method": method} | theirs
            result["beside"]["examples"] = other.examples(*first)
        return result

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """The means, the classes, the other run."""
        each = ", ".join(
            f"{name} {own['map50']:.3f}"
            for name, own in result["classes"].items()
            if own["map50"] is not None
        )
        text = (
            f"mean precision at overlap 0.5 {result['map50']:.3f} (11 points "
            f"{result['map50_11']:.3f}), over 0.5 to 0.95 {result['map']:.3f} on {self.part}: "
            f"{each}"
        )
        beside = result.get("beside")
        if beside is None:
            return text
        return (
            f"{text}; beside {beside['run']} ({beside['map50']:.3f}): "
            f"{result['map50'] - beside['map50']:+.3f}"
        )
