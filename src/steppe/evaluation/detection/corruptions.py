"""Mean precisions of a detector on corrupted images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.evaluation.base import Evaluation, read_record
from steppe.evaluation.detection import DETECTION
from steppe.experiment.detection.run import DetectionRun
from steppe.robustness.corrupted import parse_selection
from steppe.robustness.corruption_error import relative_robustness
from steppe.robustness.corruptions import SEVERITIES, corrupt
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.metrics import mean_precisions
from steppe.vision.detection.reading import detect

Batches = Sequence[tuple[Tensor, list[Tensor]]]
RULES = ("map50", "map")
PICTURED = 2
"""Kinds of which a few images are kept, evenly chosen, each at its greatest severity."""


@DETECTION.register("corruptions")
@dataclass(frozen=True, kw_only=True)
class CorruptedDetection(Evaluation):
    """Mean average precision for each corruption at each severity, mAP_C and R_C = mAP_C / mAP.

    Images are corrupted at the size that the network takes. Boxes stay where they are: no
    corruption moves an object.

    Args:
        part: test, validation or train.
        corruptions: names, comma-separated; all 19 if none are given.
        severities: of 1 to 5, comma-separated.
        limit: images at most.
        seed: of what is random.
        beside: another run on the same images, usually the dense one; it sees the same pixels.
    """

    part: str = "test"
    corruptions: str | None = None
    severities: str = "1,2,3,4,5"
    limit: int | None = None
    seed: int = 0
    beside: str | None = None

    def measure(self) -> dict[str, Any]:
        """``clean`` and ``map50``, ``map`` (name -> severity -> precision); means and R_C.

        With them ``examples``: a few images, as they were and corrupted.
        """
        names, severities = parse_selection(self.corruptions, self.severities)
        run = DetectionRun.read(self.run, self.device)
        runs = [run] + ([] if self.beside is None else [run.beside(self.beside, self.part)])
        if run.data.shape[0] != 3:
            raise SteppeError("images are corrupted in colour", got="a detector of grey images")
        batches = list(run.pixels(self.part, self.limit))
        clean = precisions(runs, batches)
        cells: list[dict[str, dict[str, dict[str, float]]]] = [
            {rule: {name: {} for name in names} for rule in RULES} for _ in runs
        ]
        examples = [run.examples(*batches[0]) for run in runs]
        for name in names:
            for severity in severities:
                changed = corrupted(batches, name, severity, self.seed)
                if name in names[:: -(-len(names) // PICTURED)] and severity == max(severities):
                    how = {"corruption": name, "severity": severity}
                    for kept, own in zip(examples, runs, strict=True):
                        kept += [one | how for one in own.examples(*changed[0])]
                for table, found in zip(cells, precisions(runs, changed), strict=True):
                    for rule in RULES:
                        table[rule][name][str(severity)] = found[rule]
        results = [
            own
            | {"clean": {rule: whole[rule] for rule in RULES}}
            | relative_robustness(own["map50"], whole["map50"])
            | {"examples": kept}
            for own, whole, kept in zip(cells, clean, examples, strict=True)
        ]
        result: dict[str, Any] = results[0]
        result |= {"images": sum(len(x) for x, _ in batches), "seed": self.seed}
        result["part"] = self.part
        if self.beside is not None:
            method = read_record(self.beside).get("method", "dense")
            result["beside"] = {"run": self.beside, "method": method} | results[1]
        return result

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """mAP_C and R_C of the papers' kinds, or the mean of what was run; what is worst."""
        names = list(result["map50"])
        severities = ", ".join(map(str, result["severities"]))
        at = "" if result["severities"] == list(SEVERITIES) else f" at severity {severities}"
        papers = [
            f"mAP_C {result[f'mean_{count}']:.3f} over {count} kinds{at} "
            f"(R_C {result[f'r_c_{count}']:.3f})"
            for count in ("15", "19")
            if f"mean_{count}" in result
        ]
        means = ", ".join(
            papers or [f"{result['mean_run']:.3f}, the mean over {counted(len(names), 'kind')}"]
        )
        worst = min(names, key=lambda n: min(result["map50"][n].values()))
        images = counted(result["images"], "corrupted image")
        text = (
            f"mean precision at overlap 0.5 on {images}: {means}; "
            f"{result['clean']['map50']:.3f} on clean ones; worst: {worst}"
        )
        beside = result.get("beside")
        if beside is None:
            return text
        return f"{text}; beside {beside['run']}: {beside['mean_run']:.3f} on the same images"


def corrupted(batches: Batches, name: str, severity: int, seed: int) -> Batches:
    """The same images, corrupted; each has draws of its own place among them."""
    changed, first = [], 0
    for x, there in batches:
        changed.append((corrupt(x, name, severity, seed=seed, first=first), there))
        first += len(x)
    return changed


@torch.no_grad()
def precisions(runs: Sequence[DetectionRun], batches: Batches) -> list[dict[str, Any]]:
    """`mean_precisions` of each run on images in [0, 1]."""
    there = [own for _, objects in batches for own in objects]
    results = []
    for run in runs:
        found: list[Detections] = []
        for x, _ in batches:
            found += detect(run.model, run.normalised(x))
        results.append(mean_precisions(found, there, run.data.classes))
    return results
