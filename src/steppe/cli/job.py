"""The options of a pruning job, declared once for every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

from steppe import methods
from steppe.core.errors import SteppeError
from steppe.core.text import read_yaml
from steppe.engine.blockwise.reconstruct import FitConfig
from steppe.method import Method

if TYPE_CHECKING:
    from steppe.llm.prune import Job


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
        spec: Any = read_yaml(value)
        if field:
            spec = method.parts[axis].to_dict() | {field: spec}
        method = method.replace(**{axis: spec})
    return method


def job(
    model: Model,
    method: MethodName,
    sparsity: Sparsity = None,
    structure: Shape = None,
    calibration: Calibration = None,
    samples: Annotated[int, _option("calibration windows")] = 128,
    window: Annotated[int | None, _option("tokens in a window [2048 or the model's]")] = None,
    evaluate: Annotated[list[str] | None, _option("text to measure perplexity on")] = None,
    evaluate_window: Annotated[int | None, _option("its windows [--window]")] = None,
    out: Annotated[
        Path | None, _option("the new folder [runs/MODEL-METHOD-SPARSITY-seedN]")
    ] = None,
    score: Annotated[str | None, _option("what matters")] = None,
    budget: Annotated[str | None, _option("uniform, per_row, row_mass, erk, owl")] = None,
    rho: Annotated[float | None, _option("SAFE: radius of the perturbation")] = None,
    penalty: Annotated[float | None, _option("SAFE, ADMM: strength of the pull")] = None,
    epochs: Annotated[int, _option("SAFE, ADMM: passes per block")] = FitConfig.epochs,
    warmup_epochs: Annotated[float | None, _option("of them warming up [a tenth]")] = None,
    lr: Annotated[float, _option("SAFE, ADMM: peak learning rate")] = FitConfig.lr,
    batch_size: Annotated[int, _option("SAFE, ADMM: windows per step")] = FitConfig.batch_size,
    precision: Annotated[str, _option("of optimisation: auto, float32, bfloat16")] = "auto",
    micro_batch: Annotated[int, _option("windows that go through a block together")] = 8,
    measure: Annotated[int, _option("windows on which layer errors are measured")] = 8,
    include: Annotated[list[str] | None, _option("pattern of what to prune")] = None,
    exclude: Annotated[list[str] | None, _option("pattern of what stays dense")] = None,
    changes: Set = None,
    seed: Annotated[int, _option("of the windows and their order")] = 0,
    device: Annotated[str | None, _option("cpu, cuda, ... [a GPU if there is one]")] = None,
) -> Job:
    """The job that the options ask for, checked, with nothing long done yet."""
    from steppe.llm.prune import Job

    options = {"sparsity": sparsity, "structure": structure, "score": score, "budget": budget}
    made = build(method, {}, changes, options | {"rho": rho, "penalty": penalty})
    warmup = epochs / 10 if warmup_epochs is None else warmup_epochs
    fit = FitConfig(epochs=epochs, warmup_epochs=warmup, lr=lr, batch_size=batch_size)
    shape = f"-{structure.replace(':', '-')}" if structure else ""
    name = f"{Path(model).name}-{made.name}-{made.sparsity:g}{shape}-seed{seed}"
    folder = out or Path("runs") / name
    return Job(
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


Command = Callable[["functools.partial[Job]", bool, bool], None]


def takes_a_job(run: Command) -> Callable[..., None]:
    """A command with the options of `job`, ``--json`` and ``--quiet``.

    Args:
        run: called with a function that makes the job, whether JSON is wanted, and quiet.
    """

    def called(json: bool = False, quiet: bool = False, **given: Any) -> None:
        run(functools.partial(job, **given), json, quiet)

    ends = {
        "json": Annotated[bool, _option("one JSON object on stdout", "--json")],
        "quiet": Annotated[bool, _option("no progress", "--quiet")],
    }
    hints = get_type_hints(job, globalns=globals() | {"Job": object}, include_extras=True)
    own = inspect.signature(job).parameters.values()
    shared = [p.replace(annotation=hints[p.name]) for p in own]
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    last = [inspect.Parameter(n, kind, default=False, annotation=t) for n, t in ends.items()]
    # typer reads a command's options from its signature
    vars(called)["__signature__"] = inspect.Signature([*shared, *last])
    called.__annotations__ = {p.name: p.annotation for p in [*shared, *last]}
    called.__doc__ = run.__doc__
    return called
