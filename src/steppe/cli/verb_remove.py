"""``steppe remove``: the channels of a run that are zero, really gone."""

from __future__ import annotations

import json as json_module
import os
import shutil
import warnings
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from steppe.cli.main import emit, say
from steppe.core.cost import Units
from steppe.core.courtesy import courtesy, decorated
from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.core.text import counted
from steppe.evaluation import read_record
from steppe.experiment.channels import Channels, gains, slim
from steppe.experiment.ending import cut, times_of
from steppe.experiment.image_run import ImageRun, was_trained
from steppe.experiment.settled import layout_of_run
from steppe.methods import display_of
from steppe.record import stamped
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.dependency_graph import nothing_free
from steppe.removal.onnx import write_onnx
from steppe.removal.plan import TEXT, save_removed
from steppe.removal.remove import Removed
from steppe.report.record import REMOVED, display
from steppe.report.variants import told_apart


def add(app: typer.Typer) -> None:
    app.command("remove", short_help="Cut out channels that are zero.")(command)


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder of steppe train")],
    out: Annotated[Path, typer.Option(help="a new folder, for the smaller network")],
    onnx: Annotated[
        bool, typer.Option("--onnx", help="also model.onnx (pip install 'steppe[onnx]')")
    ] = False,
    device: Annotated[str, typer.Option(help="where to check and to measure")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Slice out channels that are zero; checked: the smaller network computes the same."""
    _check_folders(run, out)
    record = read_record(str(run))
    trained, example = _opened(run, device, record)
    coupled = coupled_channels(trained.model, example, exclude=trained.recipe.exclude)
    if not coupled.groups:
        raise nothing_free(trained.model, coupled.left_out)
    channels = Channels(coupled.groups, Units(coupled.groups), coupled.left_out)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that nothing is zero is the error below
        removed = slim(trained.model, example, channels)
    if not removed.report["removed"]:
        raise SteppeError(
            "some channel must be zero in all layers that it is coupled with",
            got=f"{run}, where none is",
            way_out="steppe train ... --structure channel, or --method adasap",
        )
    before, after = removed.report["parameters"]
    sparse = {**record.get("sparse", {}), "parameters": after}
    # a report of both folders tells them apart
    label = display(*told_apart([record])) + REMOVED
    own: dict[str, Any] = {"label": label, "sparse": sparse}
    told = record.get("removed", {})  # by what the channels were chosen
    kept = {key: told[key] for key in ("target", "cost", "round_to") if key in told}
    own["removed"] = kept | {"parameters": [before, after], "error": removed.report["error"]}
    own["removed"]["source"] = _way(out, run)
    past = {key: value for key, value in record.items() if key != "gain"}  # was of zeros
    smaller = stamped(past | own, display_of(str(record.get("method"))))
    out.mkdir(parents=True, exist_ok=True)
    _write(run, out, removed)

    def measured(plain: dict[str, Any]) -> None:
        plain["removed"] |= gains(
            trained.model, removed, example, channels, trained.recipe.times_many
        )
        plain["speed"] = plain["removed"]["speed"]
        plain["gain"] = cut(plain["removed"])

    def save(plain: dict[str, Any]) -> None:
        write_text(out / "record.json", json_module.dumps(plain, indent=2) + "\n")

    whole = decorated(smaller, {"what removal gains": measured}, save)
    if onnx:
        there = _exported(removed.model, example, out / "model.onnx")
        whole["removed"]["onnx"] = there
        save(whole)
    gained = whole["removed"]
    with courtesy("the summary"):
        _show(gained, out, quiet)
    emit({"run": str(run), "out": str(out), **gained}, json)


def _way(out: Path, run: Path) -> str:
    """To the run from the folder made of it, so that both may be moved together."""
    try:
        return os.path.relpath(run, out)
    except ValueError:  # of two drives
        return str(run.absolute())


def _check_folders(run: Path, out: Path) -> None:
    if (run / TEXT).exists():
        raise SteppeError(
            "channels are removed once",
            got=f"{run}, which has none to spare",
            way_out="the folder of steppe train that it was made from",
        )
    if (run / "config.json").exists() and not was_trained(run / "recipe.yaml"):
        raise SteppeError(
            "steppe remove takes a run of steppe train",
            got=f"{run}, which holds a language model",
            way_out="steppe.remove(model, inputs) in Python",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SteppeError(
            "--out must be a new or empty folder", got=str(out), way_out="choose another --out"
        )


def _opened(run: Path, device: str, record: dict[str, Any]) -> tuple[ImageRun, Tensor]:
    """The run and two images for it, in the memory format in which it computed."""
    trained = ImageRun.read(str(run), device, "clean")
    layout = layout_of_run(trained.recipe, record)
    trained.model.to(memory_format=layout)  # type: ignore[call-overload]
    # seeded noise, as zeros would hide a difference
    noise = torch.Generator().manual_seed(0)
    example = torch.randn(2, *trained.data.shape, generator=noise)
    return trained, example.to(device, memory_format=layout)


def _exported(model: nn.Module, example: Tensor, path: Path) -> dict[str, Any]:
    """What was written and measured of the file, which knows one memory format only."""
    plain = torch.contiguous_format
    model.to("cpu", memory_format=plain)  # type: ignore[call-overload]
    return write_onnx(model, example.to("cpu", memory_format=plain), path)


def _show(gained: dict[str, Any], out: Path, quiet: bool) -> None:
    before, after = gained["parameters"]
    flops = f", {_pair(gained, 'flops', 1e6)} million multiply-adds" if "flops" in gained else ""
    say(f"{before:,} -> {after:,} parameters{flops}", quiet)
    if "latency_ms" in gained:
        many = "latency_ms_64" in gained
        # beside dense only the ratios of the turns are told: medians of each may contradict them
        wide = f"64 images {gained['latency_ms_64'][1]:.3g} ms, " if many else ""
        one = f"one image {gained['latency_ms'][1]:.3g} ms"
        say(f"{one}, {wide}{counted(gained['threads'], 'thread')}", quiet)
        say(times_of(gained["speed"]), quiet)
    if "onnx" in gained:
        there = gained["onnx"]
        say(
            f"model.onnx: the same to {there['error']:.1e}; two images "
            f"{there['torch_ms']:.3g} ms in torch, {there['onnxruntime_ms']:.3g} ms in "
            "onnxruntime",
            quiet,
        )
    say(f"the same outputs to {gained['error']:.1e} of the largest; written to {out}", quiet)


def _pair(gained: dict[str, Any], key: str, unit: float = 1.0) -> str:
    before, after = (value / unit for value in gained[key])
    return f"{before:.4g} -> {after:.4g}"


def _write(run: Path, out: Path, removed: Removed) -> None:
    """Weights and recipe; last comes the record, whose presence says that all is there."""
    save_removed(out, removed.model, removed.plan)
    shutil.copyfile(run / "recipe.yaml", out / "recipe.yaml")
