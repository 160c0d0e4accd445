"""``steppe latency``: how long a network's layers take here, at every width they may get."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import torch
import typer
from torch import Tensor, nn

from steppe.cli.main import emit, say
from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.experiment.image_run import trained
from steppe.removal.dependency_graph import traced_groups
from steppe.removal.latency_table import LatencyTable, measure_table
from steppe.vision.models import build

QUIET = 0.2  # interquartile range as a share of the median


def add(app: typer.Typer) -> None:
    app.command("latency", short_help="Measure the layers of a network at all widths.")(command)


def command(
    model: Annotated[str, typer.Argument(help="a run folder of steppe train, or a model's name")],
    out: Annotated[Path, typer.Option(help="the table; goes on with one that is there")],
    batch: Annotated[str, typer.Option(help="images per forward pass, e.g. 1,64")] = "1,64",
    threads: Annotated[int | None, typer.Option(help="CPU threads; torch's own number")] = None,
    round_to: Annotated[int, typer.Option(help="measure multiples of so many channels")] = 8,
    passes: Annotated[int, typer.Option(help="over everything; the quickest counts")] = 3,
    input_size: Annotated[int, typer.Option(help="a name: height and width of an image")] = 32,
    classes: Annotated[int, typer.Option(help="a name: number of classes")] = 10,
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
    """Measure a network's layers over their widths, for budgets and targets in milliseconds."""
    batches = _batches(batch)
    if threads is not None and threads < 1:
        raise SteppeError("--threads is 1 or more", got=threads, way_out="leave it out")
    network, example = _network(model, input_size, classes)
    example = _moved(network, example, device, channels_last)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(threads or before)
        table = measure_table(
            network,
            example,
            traced_groups(network, example, round_to=round_to),
            batches,
            path=out,
            round_to=round_to,
            passes=passes,
            say=lambda text: say(text, quiet),
        )
    finally:
        torch.set_num_threads(before)
    points = sum(len(timed["points"]) for timed in table.layers.values())
    whole = {name: {b: t[0] for b, t in timed.items()} for name, timed in table.networks.items()}
    say(f"{len(table.layers)} layers at {points} widths: written to {out}", quiet)
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


def _network(model: str, input_size: int, classes: int) -> tuple[nn.Module, Tensor]:
    """The network, in eval mode, and one image of zeros.

    Raises:
        SteppeError: it is neither a run of steppe train nor a model's name.
    """
    path = Path(model)
    if (path / "recipe.yaml").exists():
        _, data, network = trained(path)
        return network, torch.zeros(1, *data.shape)
    if input_size < 1:
        raise SteppeError("--input-size is 1 or more", got=input_size)
    network = build(model, classes, (3, input_size, input_size))
    return network.eval(), torch.zeros(1, 3, input_size, input_size)
