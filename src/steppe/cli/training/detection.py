"""``steppe train`` for detectors of objects."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from steppe.cli.at_work import at_work
from steppe.cli.main import of_all_parameters, say
from steppe.cli.training import TRAININGS, Flag
from steppe.cli.training.image import ImageTraining, whole
from steppe.cli.training.used import check_used
from steppe.core.courtesy import courtesy
from steppe.experiment.detection.experiment import DetectionExperiment, load_data
from steppe.experiment.detection.recipe import TASK, DetectionRecipe, parse
from steppe.report.record import setting_of

MORE = "clean,corruptions"


@TRAININGS.register(TASK)
class DetectionTraining(ImageTraining):
    """Flags of a detector's training: those of a classifier's, and what boxes need."""

    flags = ImageTraining.flags | {
        "data": Flag("data.name", str, "voc:FOLDER, coco:FOLDER or hub:OWNER/NAME"),
        "size": Flag("data.size", int, "height and width that images are scaled to [300]"),
        "skip_invalid": Flag("data.skip_invalid", bool, "leave bad boxes out, with a count"),
        "workers": Flag("data.workers", int, "processes that decode images [0]"),
    }

    @classmethod
    def run(
        cls, plain: dict[str, Any], given: Mapping[str, Any], out: Path | None, *, quiet: bool
    ) -> dict[str, Any]:
        made = parse(plain | {"task": TASK})
        for note in check_used(made, given):
            say(f"note: {note}", quiet)
        whole(made, given)
        return run(made, out, quiet=quiet)


def run(recipe: DetectionRecipe, out: Path | None, *, quiet: bool) -> dict[str, Any]:
    """Run a recipe and say what was gained."""
    method = recipe.build_method()  # a bad method fails before data are read
    recipe.train.config()
    data = load_data(recipe, say=lambda note: say(f"note: {note}", quiet))
    if out is None:
        name = f"{recipe.model.name.replace('/', '-')}-{method.name}-{method.sparsity:g}"
        out = Path("runs") / f"{name}-seed{recipe.seed}"
        say(f"writing to {out}", quiet)
    told = lambda note: say(f"note: {note}", quiet)  # noqa: E731
    experiment = DetectionExperiment(recipe, data, out, quiet, say=told)
    record, _, outcome = experiment.train()
    if outcome is None:
        say(f"{out} was finished before; nothing to do", quiet)
    with courtesy("the summary"):
        _show(record, out, quiet, [*data.notes, *experiment.notes])
    here = shlex.quote(str(out))
    say(f"more for it: steppe evaluate {here} --on {MORE}; steppe remove {here} --out OUT", quiet)
    return record | {"out": str(out)}


def _show(record: dict[str, Any], out: Path, quiet: bool, said: Sequence[str]) -> None:
    sparse, dense, before = record["sparse"], record["dense"], record["before_projection"]
    zeros = f"zeros{of_all_parameters(record)}"
    gone = f"of the {record['removed']['target']} gone" if "removed" in record else zeros
    say(f"{record['method']}, {setting_of(record)}: {record['sparsity_reached']:.2%} {gone}", quiet)
    if "map50" in sparse:
        cut = f" (before the last projection {before['map50']:.3f})" if "map50" in before else ""
        if record["method"] == "dense":
            cut = ""
        each = ", ".join(
            f"{name} {own['map50']:.3f}"
            for name, own in sparse["classes"].items()
            if own["map50"] is not None
        )
        say(
            f"mean precision at overlap 0.5 {sparse['map50']:.3f}{cut}, over 0.5 to 0.95 "
            f"{sparse['map']:.3f} on {record['evaluated_on']}: {each}",
            quiet,
        )
    latency = "latency was not measured"
    if "latency_ms" in dense and "latency_ms" in sparse:
        latency = f"latency {dense['latency_ms']:.2f} -> {sparse['latency_ms']:.2f} ms"
    say(f"{latency}, {record['seconds']:.1f} s, in {out}", quiet)
    for line in at_work(record["parts"], record.get("coupling", {})):
        say(line, quiet)
    for note in record["notes"]:
        if note not in said:
            say(f"note: {note}", quiet and note not in record.get("doubts", ()))
    if "gain" in record:
        say(record["gain"], quiet)
