"""``steppe evaluate``: a finished run, measured again."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steppe.cli.experiment import build_model, clean, load_data, read_run
from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError, unknown
from steppe.core.mask import count_zeros
from steppe.engine.batchnorm import reestimate
from steppe.vision.loader import Loader
from steppe.vision.models import load_weights, logits


def add(app: typer.Typer) -> None:
    app.command("evaluate")(command)


def command(
    run: Annotated[Path, typer.Argument(help="a run's folder")],
    on: Annotated[str, typer.Option(help="what to measure, comma-separated: clean")] = "clean",
    part: Annotated[str, typer.Option(help="test, validation or train")] = "test",
    reestimate_bn: Annotated[
        bool, typer.Option("--reestimate-bn", help="batch-norm statistics anew before measuring")
    ] = False,
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    json: Annotated[bool, typer.Option("--json", help="one JSON object on stdout")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="nothing on stderr")] = False,
) -> None:
    """Accuracy and loss of a run's weights, batch norm as stored or re-estimated."""
    for wanted in on.split(","):
        if wanted not in ("clean",):
            raise unknown("measurement", wanted, ["clean"])
    recipe = read_run(run)
    data = load_data(recipe)
    model = build_model(recipe, data)
    load_weights(model, str(run))
    try:
        model.to(device)
    except (RuntimeError, AssertionError) as error:
        raise SteppeError(
            "the device must exist here",
            got=f"{device!r} ({str(error).splitlines()[0]})",
            way_out="--device cpu",
        ) from None
    if reestimate_bn:
        loader = Loader.of(data, "train", recipe.train.batch_size, seed=recipe.seed, device=device)
        stream = loader.epoch(recipe.train.epochs)
        limit = range(max(recipe.train.bn_batches, 1))
        reestimate(model, (x for (x, _), _ in zip(stream, limit, strict=False)), logits)
    model.eval()
    options: dict[str, Any] = {"shuffle": False, "augment": None, "drop_last": False}
    result: dict[str, Any] = {**clean(model, Loader.of(data, part, 500, device=device, **options))}
    zeros = count_zeros(dict(model.named_parameters()))
    result |= {"part": part, "bn_reestimated": reestimate_bn, "zeros": zeros, "run": str(run)}
    how = ", batch norm re-estimated" if reestimate_bn else ""
    say(f"accuracy {result['accuracy']:.2%}, loss {result['loss']:.4f} on {part}{how}", quiet)
    emit(result, json)
