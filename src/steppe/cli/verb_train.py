"""``steppe train``: a recipe or flags, to a run folder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from steppe.cli.at_work import at_work
from steppe.cli.main import emit, of_all_parameters, say
from steppe.core.courtesy import courtesy
from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.core.text import number_or_word, read_yaml
from steppe.engine import ranks
from steppe.experiment.experiment import Experiment, load_data
from steppe.experiment.recipe import Recipe, load_recipe, parse, spelled_out
from steppe.experiment.varied import entries, put
from steppe.method import Method
from steppe.methods import METHODS
from steppe.report.html import write_report
from steppe.report.record import read_records, setting_of

MORE = "clean,corruptions,attacks,sharpness,landscape"


def add(app: typer.Typer) -> None:
    app.command("train", short_help="Train a sparse image classifier.")(command)


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


def command(
    recipe: Annotated[Path | None, typer.Argument(help="YAML file; or see steppe recipes")] = None,
    out: Annotated[Path | None, _option("the run's folder")] = None,
    model: Annotated[str | None, _option("name, package.module:function, path or hub id")] = None,
    weights: Annotated[str | None, _option("safetensors to start from")] = None,
    data: Annotated[str | None, _option("digits, a path, or a hub id")] = None,
    method: Annotated[str | None, _option("see steppe methods")] = None,
    sparsity: Annotated[float | None, _option("fraction of zeros, e.g. 0.95")] = None,
    structure: Annotated[str | None, _option("unstructured, 2:4, block:4x4, channel")] = None,
    rho: Annotated[float | None, _option("radius of the perturbation")] = None,
    penalty: Annotated[str | None, _option("SAFE, ADMM: a number, or auto [auto]")] = None,
    interval: Annotated[str | None, _option("SAFE, ADMM: steps, or auto [auto]")] = None,
    score: Annotated[str | None, _option("what matters")] = None,
    target: Annotated[str | None, _option("channels: parameters, flops, latency go")] = None,
    table: Annotated[str | None, _option("target latency: the file of steppe latency")] = None,
    round_to: Annotated[int | None, _option("channels: widths are multiples")] = None,
    exclude: Annotated[list[str] | None, _option("pattern of what stays dense")] = None,
    epochs: Annotated[int | None, _option("passes over the training images")] = None,
    lr: Annotated[float | None, _option("peak learning rate")] = None,
    batch_size: Annotated[int | None, _option("images per step")] = None,
    train_size: Annotated[int | None, _option("training images to use")] = None,
    seed: Annotated[int | None, _option("of weights, order and augmentation")] = None,
    device: Annotated[str | None, _option("cpu, or what accelerate finds")] = None,
    change: Annotated[
        list[str] | None, _option("any key of a recipe, e.g. method.alpha=1e-3", "--set")
    ] = None,
    json: Annotated[bool, _option("one JSON object on stdout", "--json")] = False,
    quiet: Annotated[bool, _option("no progress", "--quiet")] = False,
) -> None:
    """Train a sparse network; started again, it goes on where it was. Flags win over the recipe."""
    base: dict[str, Any] = {"method": {}} if recipe is None else load_recipe(recipe).plain()
    groups: dict[str, dict[str, Any]] = {
        "model": {"name": model, "weights": weights},
        "data": {"name": data, "train_size": train_size},
        "channels": {"target": target, "table": table, "round_to": round_to},
        "train": {"epochs": epochs, "lr": lr, "batch_size": batch_size},
    }
    for key, values in groups.items():
        given = {k: v for k, v in values.items() if v is not None}
        own = base.get(key, {})
        if key == "model" and model not in (None, own.get("name")):
            own = {}  # options and weights were another network's
        base[key] = own | given
    of_parts = {
        "rho": rho,
        "penalty": number_or_word(penalty),
        "interval": number_or_word(interval),
        "score": score,
    }
    flags = {"sparsity": sparsity, "structure": structure} | of_parts
    base["method"] = _method(base["method"], method, flags)
    for key, value in (("seed", seed), ("device", device), ("exclude", exclude)):
        if value is not None and value != []:
            base[key] = value
    for one in change or []:
        _change(base, one)
    made = parse(base)
    for note in _check_used(made, of_parts):
        say(f"note: {note}", quiet)
    run(_whole(made, groups["channels"]), out, json=json, quiet=quiet)


def _change(base: dict[str, Any], text: str) -> None:
    """Put ``place.of.key=value`` into plain data; what is no key there, `parse` refuses."""
    key_path, equals, value = text.partition("=")
    *path, last = key_path.split(".")
    node: Any = base
    for key, below in pairwise([*path, last]):
        if isinstance(node, dict) and not below.isdigit():  # a list begins with what it holds
            node.setdefault(key, {})
        node = entries(node).get(key)
    there = isinstance(node, dict) or last in entries(node)
    listed = re.split(r"\.\d+(?:\.|$)", key_path)[0] if re.search(r"\.\d", key_path) else ""
    if not equals or not last or not there:
        raise SteppeError(
            "--set takes key=value, keys of a recipe with dots between, of a list its numbers",
            got=repr(text) if equals else f"{text!r} without =",
            way_out=f"the whole list, --set '{listed}=[...]'" if listed else "--set train.lr=0.1",
        )
    try:
        put(node, last, read_yaml(value))
    except yaml.YAMLError as error:
        raise SteppeError("--set takes a value in YAML", got=f"{text!r} ({error})") from None


def _check_used(made: Recipe, flags: dict[str, Any]) -> list[str]:
    """Refuse a flag of a part that was exchanged; notes on such options of the recipe.

    Those stay, since a recipe may exchange a part of its base, which has the option.
    """
    notes = []
    for key, axis in _idle(made).items():
        option, part = f"{key} {made.method[key]}", getattr(made.build_method(), axis).name
        if flags.get(key) is not None:
            raise SteppeError(
                f"--{key} must have a part in the method",
                got=f"{option}, of a part that was exchanged for {axis} {part}",
                way_out=f"leave --{key} out; steppe methods {part} shows that part's own options",
            )
        notes.append(f"method.{option} changes nothing: its part was exchanged for {axis} {part}")
    return notes


def _idle(made: Recipe) -> dict[str, str]:
    """Options of the method that change nothing -> the axis in which their part was exchanged."""
    spec = made.method
    if spelled_out(spec):
        return {}
    own = METHODS[str(spec["name"])].options
    axes = [axis.registry.kind for axis in AXES if axis.registry.kind in spec]
    exchanged = [axis for axis in axes if axis not in own or axis == "objective"]
    given = [k for k in spec if k in own and k not in exchanged and spec[k] != own[k].default]
    return {
        key: axis
        for key in given
        for axis in exchanged
        if _without(made, key) == _without(made)
        and _without(made, key, axis) != _without(made, axis)
    }


def _without(made: Recipe, *keys: str) -> Method | None:
    """The recipe's method when it does not say these; None where that is none."""
    rest = {k: v for k, v in made.method.items() if k not in keys}
    try:
        return made.model_copy(update={"method": rest}).build_method()
    except SteppeError:
        return None


def _whole(made: Recipe, channels: dict[str, Any]) -> Recipe:
    """The recipe, unless flags for channels were given and it prunes none."""
    if any(channels.values()) and not made.build_method().structure.whole_outputs:
        raise SteppeError(
            "--target, --table and --round-to are for channels",
            got="a method of another structure",
            way_out="--structure channel, or leave them out",
        )
    return made


def _method(spec: dict[str, Any], name: str | None, flags: dict[str, Any]) -> dict[str, Any]:
    given = {k: v for k, v in flags.items() if v is not None}
    if name is not None and name != spec.get("name"):
        spec = {"name": name}
    if not spec:
        raise SteppeError(
            "train needs a recipe or a method",
            way_out="steppe train RECIPE.yaml, or --method safe --sparsity 0.95",
        )
    if spelled_out(spec) and given:
        raise SteppeError(
            "a recipe that spells out the seven parts takes no method flags",
            got=", ".join(given),
            way_out="edit the recipe, or name a method with --method",
        )
    return spec | given


def run(recipe: Recipe, out: Path | None, *, json: bool, quiet: bool) -> dict[str, Any]:
    """Run a recipe and say what was gained."""
    method = recipe.build_method()  # a bad method fails before data are read
    recipe.train.config()
    data = load_data(recipe, say=lambda note: say(f"note: {note}", quiet))
    if out is None:
        out = Path("runs") / f"{method.name}-{method.sparsity:g}-seed{recipe.seed}"
        say(f"writing to {out}", quiet)
    experiment = Experiment(recipe, data, out, quiet, say=lambda note: say(f"note: {note}", quiet))
    record, _, outcome = experiment.train()
    if outcome is None:
        say(f"{out} was finished before; nothing to do", quiet)
    with courtesy("the summary"):
        _show(record, out, quiet, [*data.notes, *experiment.notes])
    report: Path | None = None
    with courtesy("the report"):
        if ranks.first():
            page = out / "report.html"
            write_report(page, title=f"steppe train: {out.name}", records=read_records([out]))
            report = page
            say(f"report: {report.resolve()}", quiet)
    beside = "" if record["method"] == "dense" else " [--beside DENSE_RUN]"
    here = shlex.quote(str(out))
    say(f"more for it: steppe evaluate {here} --on {MORE}{beside}; steppe report {here}", quiet)
    emit(record | {"out": str(out), "report": None if report is None else str(report)}, json)
    return record


def _show(record: dict[str, Any], out: Path, quiet: bool, said: Sequence[str]) -> None:
    sparse, dense, before = record["sparse"], record["dense"], record["before_projection"]
    zeros = f"zeros{of_all_parameters(record)}"
    gone = f"of the {record['removed']['target']} gone" if "removed" in record else zeros
    where = setting_of(record)  # the network may be one that nobody asked for
    say(f"{record['method']}, {where}: {record['sparsity_reached']:.2%} {gone}", quiet)
    start = f", dense at the start {dense['accuracy']:.2%}" if "accuracy" in dense else ""
    cut = "" if record["method"] == "dense" else "the last projection and "
    if sparse.get("accuracy") is not None and before:
        say(
            f"accuracy {sparse['accuracy']:.2%} on {record['evaluated_on']} "
            f"(before {cut}new batch-norm statistics {before['accuracy']:.2%}{start})",
            quiet,
        )
    latency = "latency was not measured"
    if "latency_ms" in dense and "latency_ms" in sparse:
        latency = f"latency {dense['latency_ms']:.2f} -> {sparse['latency_ms']:.2f} ms"
    stored = "bytes" in dense and "bytes_packed" in sparse
    size = f"bytes {dense['bytes']} -> {sparse['bytes_packed']} (packed), " if stored else ""
    say(f"{latency}, {size}{record['seconds']:.1f} s, in {out}", quiet)
    for line in at_work(record["parts"], record.get("coupling", {})):
        say(line, quiet)
    for note in record["notes"]:
        if note not in said:  # that the run has failed is no progress
            say(f"note: {note}", quiet and note not in record.get("doubts", ()))
    if "gain" in record:
        say(record["gain"], quiet)
