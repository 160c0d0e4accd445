"""Mean precisions of a detector on corrupted images."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.evaluation.base import Evaluation, read_record
from steppe.evaluation.detection import DETECTION
from steppe.experiment.detection.run import DetectionRun
from steppe.experiment.image_run import check_limit
from steppe.robustness.corrupted import at_severities, parse_selection, worst_of
from steppe.robustness.corruption_error import r_c_text, relative_robustness
from steppe.robustness.corruptions import corrupt
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.metrics import mean_precisions
from steppe.vision.detection.reading import detect

Batches = Iterable[tuple[Tensor, list[Tensor]]]
RULES = ("map50", "map")
PICTURED = 2
"""Kinds of which a few images are kept, evenly chosen, each at its greatest severity."""


@DETECTION.register("corruptions")
@dataclass(frozen=True, kw_only=True)
class CorruptedDetection(Evaluation):
    """Mean average precision for each corruption at each severity, mAP_C and R_C = mAP_C / mAP.

    Images are corrupted at the size that the network takes. Boxes stay where they are, also where
    an elastic transform moves objects. Images are read anew for each corruption and severity, so
    that only those of a batch are in memory.

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

    def check(self) -> None:
        parse_selection(self.corruptions, self.severities)
        check_limit(self.limit)

    def measure(self) -> dict[str, Any]:
        """``clean`` and ``map50``, ``map`` (name -> severity -> precision); means and R_C.

        With them ``examples``: a few images, as they were and corrupted.
        """
        self.check()
        names, severities = parse_selection(self.corruptions, self.severities)
        run = DetectionRun.read(self.run, self.device)
        runs = [run] + ([] if self.beside is None else [run.beside(self.beside, self.part)])
        if run.data.shape[0] != 3:
            raise SteppeError(
                "images are corrupted in colour",
                got="a detector of grey images",
                way_out="--on clean, or a detector of colours (data.mean of three numbers)",
            )
        run.check_measurable(self.part, self.limit)
        images = run.pixels(self.part, self.limit)
        clean = looked_at(runs, images, pictured=True)
        cells: list[dict[str, dict[str, dict[str, float]]]] = [
            {rule: {name: {} for name in names} for rule in RULES} for _ in runs
        ]
        examples = [own.examples for own in clean]
        for name in names:
            for severity in severities:
                changed = corrupted(images, name, severity, self.seed)
                few = name in names[:: -(-len(names) // PICTURED)] and severity == max(severities)
                how = {"corruption": name, "severity": severity}
                seen = looked_at(runs, changed, pictured=few)
                for table, kept, own in zip(cells, examples, seen, strict=True):
                    kept += [one | how for one in own.examples]
                    for rule in RULES:
                        table[rule][name][str(severity)] = own.precisions[rule]
        results = [
            own
            | {"clean": {rule: whole.precisions[rule] for rule in RULES}}
            | relative_robustness(own["map50"], whole.precisions["map50"])
            | {"examples": kept}
            for own, whole, kept in zip(cells, clean, examples, strict=True)
        ]
        result: dict[str, Any] = results[0]
        result |= {"images": clean[0].images, "seed": self.seed, "part": self.part}
        if self.beside is not None:
            method = read_record(self.beside).get("method", "dense")
            result["beside"] = {"run": self.beside, "method": method} | results[1]
        return result

    def line(self, result: dict[str, Any], record: dict[str, Any]) -> str:
        """mAP_C and R_C of the papers' kinds, or the mean of what was run; what is worst."""
        names = list(result["map50"])
        at = at_severities(result["severities"])
        papers = [
            f"mAP_C {result[f'mean_{count}']:.3f} over {count} kinds{at} "
            f"({r_c_text(result[f'r_c_{count}'])})"
            for count in ("15", "19")
            if f"mean_{count}" in result
        ]
        run = ", ".join(names) if len(names) <= 3 else f"the {len(names)} kinds that were run"
        means = ", ".join(papers or [f"{result['mean_run']:.3f}, the mean over {run}{at}"])
        images = counted(result["images"], "corrupted image")
        text = (
            f"mean precision at overlap 0.5 on {images}: {means}; "
            f"{result['clean']['map50']:.3f} on clean ones{worst_of(result['map50'])}"
        )
        beside = result.get("beside")
        if beside is None:
            return text
        return f"{text}; beside {beside['run']}: {beside['mean_run']:.3f} on the same images"


def corrupted(batches: Batches, name: str, severity: int, seed: int) -> Batches:
    """The same images, corrupted; each has draws of its own place among them."""
    first = 0
    for x, there in batches:
        yield corrupt(x, name, severity, seed=seed, first=first), there
        first += len(x)


@dataclass(frozen=True, eq=False)
class Seen:
    """What a detector makes of images.

    Args:
        precisions: see `mean_precisions`.
        examples: the first images with what is found in them, where they are asked for.
        images: their number.
    """

    precisions: dict[str, Any]
    examples: list[dict[str, Any]]
    images: int


@torch.no_grad()
def looked_at(runs: Sequence[DetectionRun], batches: Batches, pictured: bool) -> list[Seen]:
    """What each run makes of the same images in [0, 1], of which a batch is held at a time."""
    there: list[Tensor] = []
    found: list[list[Detections]] = [[] for _ in runs]
    examples: list[list[dict[str, Any]]] = [[] for _ in runs]
    for x, objects in batches:
        if pictured and not there:
            examples = [run.examples(x, objects) for run in runs]
        there += objects
        for own, run in zip(found, runs, strict=True):
            own += detect(run.model, run.normalised(x))
    return [
        Seen(mean_precisions(own, there, run.data.classes), kept, len(there))
        for own, kept, run in zip(found, examples, runs, strict=True)
    ]
