"""``steppe remove``: the channels of a run that are zero, really gone."""

from __future__ import annotations

import json as json_module
import shutil
from pathlib import Path
from typing import Annotated, Any

import torch
import typer

from steppe.cli.main import emit, say
from steppe.core.cost import Units
from steppe.core.errors import SteppeError
from steppe.core.serialization import write_text
from steppe.evaluation import read_record
from steppe.experiment.channels import Channels, slim
from steppe.experiment.image_run import ImageRun
from steppe.methods import display_of
from steppe.record import stamped
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.onnx import write_onnx
from steppe.removal.plan import TEXT, save_removed
from steppe.report.record import display


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
    if (run / TEXT).exists():
        raise SteppeError("channels are removed once", got=f"{run}, which has none to spare")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SteppeError(
            "--out must be a new or empty folder", got=str(out), way_out="choose another --out"
        )
    trained = ImageRun.read(str(run), device, "clean")
    example = torch.zeros(2, *trained.data.shape, device=device)
    # seeded noise, as zeros would hide a difference
    example.copy_(torch.randn(example.shape, generator=torch.Generator().manual_seed(0)))
    coupled = coupled_channels(trained.model, example, exclude=trained.recipe.exclude)
    channels = Channels(coupled.groups, Units(coupled.groups), coupled.left_out)
    removed, gained = slim(trained.model, example, channels)
    if not removed.report["removed"]:
        raise SteppeError(
            "some channel must be zero in all layers that it is coupled with",
            got=f"{run}, where none is",
            way_out="steppe train ... --structure channel, or --method adasap",
        )
    record = read_record(str(run))
    sparse = {**record.get("sparse", {}), "parameters": gained["parameters"][1]}
    out.mkdir(parents=True, exist_ok=True)
    if onnx:
        gained["onnx"] = write_onnx(removed.model.cpu(), example.cpu(), out / "model.onnx")
    # a report of both folders tells them apart
    label = f"{display(record)}, removed"
    smaller = record | {"label": label, "removed": gained, "sparse": sparse}
    _write(run, out, removed, stamped(smaller, display_of(str(record.get("method")))))
    before, after = gained["parameters"]
    say(
        f"{before:,} -> {after:,} parameters, {_times(gained, 'flops', 1e6)} million multiply-adds",
        quiet,
    )
    say(
        f"one image {_times(gained, 'latency_ms')} ms, 64 images "
        f"{_times(gained, 'latency_ms_64')} ms, {gained['threads']} threads",
        quiet,
    )
    if onnx:
        held_there = gained["onnx"]
        say(
            f"model.onnx: the same to {held_there['error']:.1e}; two images "
            f"{held_there['torch_ms']:.3g} ms in torch, {held_there['onnxruntime_ms']:.3g} ms in "
            "onnxruntime",
            quiet,
        )
    say(f"the same outputs to {gained['error']:.1e} of the largest; written to {out}", quiet)
    emit({"run": str(run), "out": str(out), **gained}, json)


def _times(gained: dict[str, Any], key: str, unit: float = 1.0) -> str:
    before, after = (value / unit for value in gained[key])
    return f"{before:.4g} -> {after:.4g} ({before / after:.2f}x)"


def _write(run: Path, out: Path, removed: Any, record: dict[str, Any]) -> None:
    """The folder, and last the record, whose presence says that all is there."""
    save_removed(out, removed.model, removed.plan)
    shutil.copyfile(run / "recipe.yaml", out / "recipe.yaml")
    write_text(out / "record.json", json_module.dumps(record, indent=2) + "\n")
