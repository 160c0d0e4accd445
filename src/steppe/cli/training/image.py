"""``steppe train`` for images."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from steppe.cli.at_work import at_work
from steppe.cli.main import of_all_parameters, say
from steppe.cli.training import METHOD_FLAGS, TRAININGS, Flag
from steppe.cli.training.used import check_used
from steppe.core.courtesy import courtesy
from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.engine.step.argument_checks import check_trains
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.latency_command import check_table
from steppe.experiment.recipe import Recipe, parse
from steppe.methods import METHODS
from steppe.report.html import write_report
from steppe.report.level import level_of
from steppe.report.record import is_dense, read_records, setting_of

Say = Callable[[str], object]
_CHANNELS = ("target", "table", "round_to")


@TRAININGS.register("image")
class ImageTraining:
    """Flags of an image classifier's training."""

    schema: ClassVar[type[Recipe]] = Recipe
    measures: ClassVar[str] = "clean,corruptions,attacks,sharpness,landscape"
    flags = METHOD_FLAGS | {
        "model": Flag("model.name", str, "name, package.module:function, path or hub id"),
        "weights": Flag("model.weights", str, "safetensors to start from"),
        "data": Flag("data.name", str, "digits, a path, or a hub id"),
        "target": Flag("channels.target", str, "channels: parameters, flops, latency go"),
        "table": Flag("channels.table", str, "target latency: the file of steppe latency"),
        "round_to": Flag("channels.round_to", int, "channels: widths are multiples"),
        "exclude": Flag("exclude", list[str], "pattern of what stays dense"),
        "epochs": Flag("train.epochs", int, "passes over the training images"),
        "lr": Flag("train.lr", float, "peak learning rate"),
        "batch_size": Flag("train.batch_size", int, "images per step"),
        "train_size": Flag("data.train_size", int, "training images to use"),
        "seed": Flag("seed", int, "of weights, order and augmentation"),
        "device": Flag("device", str, "cpu, or what accelerate finds"),
    }

    @classmethod
    def begin(cls, model: str) -> dict[str, Any]:
        raise AssertionError("networks of images are named with --model")

    @classmethod
    def put(cls, plain: dict[str, Any], given: Mapping[str, Any]) -> None:
        named = given.get("model")
        if named is not None and named != plain.get("model", {}).get("name"):
            plain["model"] = {}  # options and weights were another network's
        method = given.get("method")
        if method is not None and method in METHODS:  # before it is asked for what it needs
            check_trains(METHODS[method].example())

    @classmethod
    def run(
        cls, plain: dict[str, Any], given: Mapping[str, Any], out: Path | None, *, quiet: bool
    ) -> dict[str, Any]:
        made = cls.read(plain)
        for note in check_used(made, given):
            say(f"note: {note}", quiet)
        return carried_out(cls, whole(made, given), out, quiet=quiet)

    @classmethod
    def read(cls, plain: dict[str, Any]) -> Recipe:
        """The recipe, of which flags may have changed anything."""
        return parse(plain)

    @classmethod
    def experiment(cls, recipe: Any, out: Path, say: Say, quiet: bool) -> Experiment:
        """Its data read, which may have something to say."""
        return Experiment(recipe, load_data(recipe, say=say), out, quiet, say=say)

    @classmethod
    def folder(cls, recipe: Recipe) -> str:
        """Under ``runs``, where no ``--out`` is given; the seed is added."""
        method = recipe.build_method()
        return f"{method.name}-{method.sparsity:g}"

    @classmethod
    def quality(cls, record: dict[str, Any]) -> str:
        """How good the network is; "" where that was not measured."""
        sparse, dense, before = record["sparse"], record["dense"], record["before_projection"]
        start = f", dense at the start {dense['accuracy']:.2%}" if "accuracy" in dense else ""
        cut = "" if record["method"] == "dense" else "the last projection and "
        if sparse.get("accuracy") is None or not before:
            return ""
        return (
            f"accuracy {sparse['accuracy']:.2%} on {record['evaluated_on']} "
            f"(before {cut}new batch-norm statistics {before['accuracy']:.2%}{start})"
        )

    @classmethod
    def more(cls, run: str, record: dict[str, Any]) -> str:
        """What else can be done with a run, as commands."""
        beside = "" if record["method"] == "dense" else " [--beside DENSE_RUN]"
        remove = f"; steppe remove {run} --out OUT" if _is_masked(record) else ""
        return f"steppe evaluate {run} --on {cls.measures}{beside}; steppe report {run}{remove}"


def _is_masked(record: Mapping[str, Any]) -> bool:
    """Whether channels are zero that steppe remove takes out."""
    before, after = record.get("removed", {}).get("parameters", (0, 0))
    return bool(before != after)


def whole(made: Recipe, given: Mapping[str, Any]) -> Recipe:
    """The recipe, unless flags for channels were given and it prunes none."""
    if any(given.get(key) for key in _CHANNELS) and not made.build_method().structure.whole_outputs:
        raise SteppeError(
            "--target, --table and --round-to are for channels",
            got="a method of another structure",
            way_out="--structure channel, or leave them out",
        )
    return made


def carried_out(
    training: type[ImageTraining], recipe: Recipe, out: Path | None, *, quiet: bool
) -> dict[str, Any]:
    """Run a recipe and say what was gained."""
    recipe.build_method()  # a bad method fails before data are read
    recipe.train.config()
    asked = out is not None
    out = out or Path("runs") / f"{training.folder(recipe)}-seed{recipe.seed}"
    check_table(recipe, out)
    experiment = training.experiment(recipe, out, lambda note: say(f"note: {note}", quiet), quiet)
    say(f"writing to {out}", quiet or asked)
    record, _, outcome = experiment.train()
    if outcome is None:
        say(f"{out} was finished before; nothing to do", quiet)
    with courtesy("the summary"):
        said = [*experiment.data.notes, *experiment.notes]
        _show(training, record, out, quiet, said)
    report: Path | None = None
    with courtesy("the report"):
        if ranks.first():
            page = out / "report.html"
            write_report(page, title=f"steppe train: {out.name}", records=read_records([out]))
            report = page
            say(f"report: {report.resolve()}", quiet)
    say(f"more for it: {training.more(shlex.quote(str(out)), record)}", quiet)
    return record | {"out": str(out), "report": None if report is None else str(report)}


def _show(
    training: type[ImageTraining],
    record: dict[str, Any],
    out: Path,
    quiet: bool,
    said: Sequence[str],
) -> None:
    sparse, dense = record["sparse"], record["dense"]
    zeros = f"zeros{of_all_parameters(record)}"
    level = level_of(record)
    gone = level.counted if "removed" in record and level is not None else zeros
    without = " without the channels that are zero" if _is_masked(record) else ""
    where = setting_of(record)  # the network may be one that nobody asked for
    say(f"{record['method']}, {where}: {record['sparsity_reached']:.2%} {gone}{without}", quiet)
    if quality := training.quality(record):
        say(quality, quiet)
    time = "latency was not measured"
    if "latency_ms" in sparse:
        # how it compares with dense is what the turns say, below: medians of each may contradict
        time = f"one input takes {sparse['latency_ms']:.2f} ms"
    size = f"bytes {dense['bytes']}, " if "bytes" in dense else ""
    if size and not is_dense(record) and "bytes_packed" in sparse:
        size = f"bytes {dense['bytes']} -> {sparse['bytes_packed']} (packed), "
    say(f"{time}{without}, {size}{record['seconds']:.1f} s, in {out}", quiet)
    for line in at_work(record["parts"], record.get("coupling", {})):
        say(line, quiet)
    for note in record["notes"]:
        if note not in said:  # that the run has failed is no progress
            say(f"note: {note}", quiet and note not in record.get("doubts", ()))
    if "gain" in record:
        say(record["gain"], quiet)
