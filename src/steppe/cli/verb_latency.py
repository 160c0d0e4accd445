"""``steppe latency``: how long a network's layers take here, at every width they may get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import Tensor, nn

from steppe.cli.generation_latency import is_language_model, of_language_model
from steppe.cli.main import emit, say
from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.core.text import counted
from steppe.experiment.image_run import trained
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.latency_table import LatencyTable, measure_table
from steppe.vision.detection.models import DETECTORS
from steppe.vision.detection.models import build as build_detector
from steppe.vision.models import build

QUIET = 0.2  # interquartile range as a share of the median


def add(app: typer.Typer) -> None:
    app.command("latency", short_help="Measure the layers of a network at all widths.")(command)


def command(
    model: Annotated[
        str,
        typer.Argument(
            help="a run folder of steppe train, a model's name, or the folder of a language model"
        ),
    ],
    out: Annotated[Path, typer.Option(help="the table; goes on with one that is there")],
    batch: Annotated[
        str | None, typer.Option(help="images per forward pass, e.g. 1,64 [1,64]")
    ] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number")] = None,
    round_to: Annotated[
        int | None, typer.Option(help="measure multiples of so many channels [8], neurons [1]")
    ] = None,
    passes: Annotated[int, typer.Option(help="over everything; the quickest counts")] = 3,
    input_size: Annotated[
        int | None,
        typer.Option(help="a name: height and width of an image; a classifier's [32]"),
    ] = None,
    classes: Annotated[int | None, typer.Option(help="a name: number of classes [10]")] = None,
    prompt: Annotated[int | None, typer.Option(help="language: tokens read first [256]")] = None,
    tokens: Annotated[int | None, typer.Option(help="language: tokens written [64]")] = None,
    dtype: Annotated[
        str | None, typer.Option(help="language: float32, bfloat16, float16 [as stored]")
    ] = None,
    channels_last: Annotated[
        bool,
        typer.Option(
            "--channels-last", help="in this memory format, as a recipe may train; often quicker"
        ),
    ] = False,
    device: Annotated[str, typer.Option(help="where to measure, e.g. cuda")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Measure a network's layers over their widths, for budgets and targets in milliseconds.

    Of a language model: its blocks, while it reads a prompt and writes, one text at a time.
    """
    language = is_language_model(model)
    of_images: dict[str, Any] = {"--batch": batch, "--channels-last": channels_last or None}
    of_images |= {"--input-size": input_size, "--classes": classes}
    _check_of_kind(language, of_images, {"--prompt": prompt, "--tokens": tokens, "--dtype": dtype})
    batches = _batches(batch or "1,64")
    if threads is not None and threads < 1:
        raise SteppeError("--threads is 1 or more", got=threads, way_out="leave it out")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        if language:
            text = {"prompt": prompt, "tokens": tokens, "multiple": round_to, "passes": passes}
            of_language_model(model, out, device, dtype, json, quiet, **text)
            return
        network, example = _network(model, input_size, classes)
        example = _moved(network, example, device, channels_last)
        table = _measured(network, example, batches, round_to, passes, out, quiet)
    finally:
        torch.set_num_threads(before)
    _report(model, out, table, json, quiet)


def _check_of_kind(language: bool, images: dict[str, Any], texts: dict[str, Any]) -> None:
    """Whether options are those of the kind of model.

    Raises:
        SteppeError: one is of the other kind.
    """
    other, kind = (images, "images") if language else (texts, "language models")
    given = [option for option, value in other.items() if value is not None]
    if given:
        raise SteppeError(
            f"{given[0]} is an option for {kind}",
            got=f"a {'language model' if language else 'model of images'}",
            way_out="leave it out, or name the folder of a language model"
            if not language
            else "leave it out",
        )


def _measured(
    network: nn.Module,
    example: Tensor,
    batches: list[int],
    round_to: int | None,
    passes: int,
    out: Path,
    quiet: bool,
) -> LatencyTable:
    """The table of a network of images."""
    multiple = 8 if round_to is None else round_to
    return measure_table(
        network,
        example,
        traced_groups(network, example, round_to=multiple),
        batches,
        path=out,
        round_to=multiple,
        passes=passes,
        say=lambda text: say(text, quiet),
    )


def _report(model: str, out: Path, table: LatencyTable, json: bool, quiet: bool) -> None:
    """Say and emit what was measured of a network."""
    points = sum(len(timed["points"]) for timed in table.layers.values())
    whole = {name: {b: t[0] for b, t in timed.items()} for name, timed in table.networks.items()}
    layers, widths = counted(len(table.layers), "layer"), counted(points, "width")
    say(f"{layers} at {widths}: written to {out}", quiet)
    if (spread := _spread(table)) > QUIET:
        say(
            f"note: the network's times spread by {spread:.0%} of their median, so other programs "
            "were running; on a quiet machine a table holds better",
            quiet,
        )
    emit(
        {
            "model": model,
            "out": str(out),
            "conditions": table.conditions,
            "layers": len(table.layers),
            "points": points,
            "networks_ms": whole,
            "spread": spread,
        },
        json,
    )


def _spread(table: LatencyTable) -> float:
    """The largest interquartile range of a whole network's times, as a share of their median."""
    points = [point for batches in table.networks.values() for point in batches.values()]
    return max(point[2] / max(point[1], 1e-9) for point in points)


def _moved(network: nn.Module, example: Tensor, device: str, channels_last: bool) -> Tensor:
    """The network where and as it is measured, and its example there."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    there = device_of(device)
    network.to(there, memory_format=layout)  # type: ignore[call-overload]
    return example.to(there)


def _batches(text: str) -> list[int]:
    """``1,64`` as numbers."""
    words = [word.strip() for word in text.split(",")]
    if not all(word.isdecimal() and int(word) for word in words):
        raise SteppeError(
            "--batch is one or more numbers of images", got=repr(text), way_out="--batch 1,64"
        )
    return sorted({int(word) for word in words})


def _network(model: str, input_size: int | None, classes: int | None) -> tuple[nn.Module, Tensor]:
    """The network, in eval mode, and one image of zeros.

    Raises:
        SteppeError: it is neither a run of steppe train nor a model's name; a run is asked for at
            another size, or a detector without one.
    """
    path = Path(model)
    if (path / "recipe.yaml").exists():
        _check_run(model, {"--input-size": input_size, "--classes": classes})
        _, data, network = trained(path)
        return network, torch.zeros(1, *data.shape)
    detector = model in DETECTORS
    if detector and input_size is None:
        raise SteppeError(
            "a detector is measured at the size of the images that it is trained on",
            got=f"{model} without --input-size",
            way_out="--input-size with the recipe's data.size and --classes with the number of its "
            "classes, or the folder of a run in place of the name",
        )
    size = 32 if input_size is None else input_size
    if size < 1:
        raise SteppeError("--input-size is 1 or more", got=size, way_out="--input-size 32")
    make = build_detector if detector else build
    network = make(model, 10 if classes is None else classes, (3, size, size))
    return network.eval(), torch.zeros(1, 3, size, size)


def _check_run(model: str, given: dict[str, int | None]) -> None:
    """A run has a size and classes of its own.

    Raises:
        SteppeError: one is given.
    """
    for option, value in given.items():
        if value is not None:
            raise SteppeError(
                f"{option} is for a network's name, as a run has its own",
                got=f"{option} {value} with the run {model}",
                way_out=f"leave it out; or the name in place of the run: steppe latency NAME "
                f"{option} {value}",
            )
