"""``steppe prune``: a pretrained language model, block by block."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from steppe import methods
from steppe.cli.blocktable import BlockTable
from steppe.cli.main import emit, say
from steppe.core.errors import SteppeError
from steppe.engine.blockfit import FitConfig
from steppe.method import Method


def add(app: typer.Typer) -> None:
    app.command("prune")(command)


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


Model = Annotated[str, typer.Argument(help="a folder with safetensors, or a hub id")]
MethodName = Annotated[str, _option("see steppe methods", "--method")]
Sparsity = Annotated[float | None, _option("fraction of zeros, e.g. 0.5")]
Shape = Annotated[str | None, _option("unstructured, 2:4, 4:8, block:4x4")]
Calibration = Annotated[
    str | None, _option("text file, folder, dataset id, or .safetensors of token ids")
]
Set = Annotated[
    list[str] | None,
    _option("any option of a part, e.g. objective.start=layer_admm, coupling=hard_mask", "--set"),
]


def build(
    name: str, options: dict[str, Any], changes: list[str] | None, given: dict[str, Any]
) -> Method:
    """The method that flags ask for, as it prunes a language model."""
    options = options | {k: v for k, v in given.items() if v is not None}
    method = methods.for_language(methods.make(name, **options))
    for change in changes or []:
        key, _, value = change.partition("=")
        axis, _, field = key.partition(".")
        if axis not in method.parts or not value:
            raise SteppeError(
                "--set takes axis=part or axis.option=value",
                got=repr(change),
                way_out=f"axes: {', '.join(method.parts)}",
            )
        spec: Any = _value(value)
        if field:
            spec = method.parts[axis].to_dict() | {field: spec}
        method = method.replace(**{axis: spec})
    return method


def _value(text: str) -> Any:
    import yaml

    # YAML reads 1e-3 as text
    try:
        return float(text) if "e" in text.lower() else yaml.safe_load(text)
    except ValueError:
        return yaml.safe_load(text)


def command(
    model: Model,
    method: MethodName,
    sparsity: Sparsity = None,
    structure: Shape = None,
    calibration: Calibration = None,
    samples: Annotated[int, _option("calibration windows")] = 128,
    window: Annotated[int | None, _option("tokens in a window [2048 or the model's]")] = None,
    evaluate: Annotated[list[str] | None, _option("text to measure perplexity on")] = None,
    evaluate_window: Annotated[int | None, _option("its windows [--window]")] = None,
    out: Annotated[Path | None, _option("the new folder")] = None,
    score: Annotated[str | None, _option("what matters")] = None,
    budget: Annotated[str | None, _option("uniform, per_row, row_mass, erk, owl")] = None,
    rho: Annotated[float | None, _option("SAFE: radius of the perturbation")] = None,
    penalty: Annotated[float | None, _option("SAFE, ADMM: strength of the pull")] = None,
    epochs: Annotated[int, _option("SAFE, ADMM: passes per block")] = 10,
    warmup_epochs: Annotated[float | None, _option("of them warming up [a tenth]")] = None,
    lr: Annotated[float, _option("SAFE, ADMM: peak learning rate")] = 1e-3,
    batch_size: Annotated[int, _option("SAFE, ADMM: windows per step")] = 8,
    precision: Annotated[str, _option("of optimisation: auto, float32, bfloat16")] = "auto",
    micro_batch: Annotated[int, _option("windows that go through a block together")] = 8,
    measure: Annotated[int, _option("windows on which layer errors are measured")] = 8,
    include: Annotated[list[str] | None, _option("pattern of what to prune")] = None,
    exclude: Annotated[list[str] | None, _option("pattern of what stays dense")] = None,
    changes: Set = None,
    seed: Annotated[int, _option("of the windows and their order")] = 0,
    device: Annotated[str | None, _option("cpu, cuda, ... [a GPU if there is one]")] = None,
    json: Annotated[bool, _option("one JSON object on stdout", "--json")] = False,
    quiet: Annotated[bool, _option("no progress", "--quiet")] = False,
) -> None:
    """Prune a causal language model; started again, it goes on where it was."""
    from steppe.llm.prune import Job

    options = {"sparsity": sparsity, "structure": structure, "score": score, "budget": budget}
    made = build(method, {}, changes, options | {"rho": rho, "penalty": penalty})
    warmup = epochs / 10 if warmup_epochs is None else warmup_epochs
    fit = FitConfig(epochs=epochs, warmup_epochs=warmup, lr=lr, batch_size=batch_size)
    folder = out or Path("runs") / f"{Path(model).name}-{made.name}-{made.sparsity:g}-seed{seed}"
    if out is None:
        say(f"writing to {folder}", quiet)
    job = Job(
        model,
        made,
        calibration,
        folder,
        evaluate=evaluate or [],
        samples=samples,
        window=window,
        evaluate_window=evaluate_window,
        seed=seed,
        device=device,
        precision=precision,
        micro_batch=micro_batch,
        measure=measure,
        fit=fit,
        include=include or [],
        exclude=exclude or [],
    )
    with BlockTable(len(job.model), quiet) as table:
        record = job.run(table.add)
    _show(record, folder, quiet)
    emit(record | {"out": str(folder)}, json)


def _show(record: dict[str, Any], out: Path, quiet: bool) -> None:
    say(f"{record['method']}: {record['sparsity_reached']:.4%} zeros in the decoder blocks", quiet)
    dense, sparse = record["dense"], record["sparse"]
    for name, found in sparse.get("texts", {}).items():
        before = dense["texts"][name]["perplexity"]
        say(
            f"perplexity {before:.2f} dense, {found['perplexity']:.2f} sparse "
            f"(windows of {found['window']} tokens of {name})",
            quiet,
        )
    if not sparse.get("texts"):
        say("no perplexity was measured: give --evaluate FILE", quiet)
    say(
        f"{record['seconds_pruning']:.1f} s pruning, {record['seconds']:.1f} s in all, "
        f"peak memory {record['peak_memory_bytes'] / 2**30:.2f} GiB, in {out}",
        quiet,
    )
    for note in record["fallbacks"]:
        say(f"note: {note}", quiet)
    say(record["gain"], quiet)
