"""The options of a pruning job, declared once for every command that takes one."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, get_args, get_origin, get_type_hints

import typer

from steppe import methods
from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.core.text import number_or_word, read_yaml
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.llm.prune_config import PruneConfig
from steppe.method import Method

if TYPE_CHECKING:
    from steppe.llm.prepare import PreparedPruning

Config = TypeVar("Config", bound=PruneConfig)


def _option(help: str, *names: str) -> Any:
    return typer.Option(*names, help=help)


Model = Annotated[str, typer.Argument(help="a folder with safetensors, or a hub id")]
MethodName = Annotated[str, _option("see steppe methods", "--method")]
Sparsity = Annotated[
    float | None,
    _option(
        "fraction that goes, e.g. 0.5: of weights, which are zero then; or of neurons, heads, "
        "blocks, experts or dimensions, which are cut out"
    ),
]
Shape = Annotated[
    str | None,
    _option(
        "zeros: unstructured, 2:4, 4:8, block:4x4; cut out: neurons, heads, neurons+heads, "
        "neurons+heads+layers, layers, experts, hidden"
    ),
]
TARGET = (
    "instead of a sparsity: parameters=0.75, bytes=1G, latency=0.7, latency=800ms, "
    "latency=20tokens_per_second"
)
Set = Annotated[
    list[str] | None,
    _option("any option of the method or of a part, e.g. method.start=null, perturb=none", "--set"),
]


def build(
    name: str,
    options: dict[str, Any],
    changes: list[str] | None,
    given: dict[str, Any],
    swaps: int | None = None,
) -> Method:
    """The method that flags ask for, as it prunes a language model."""
    options = options | {k: v for k, v in given.items() if v is not None}
    own, of_parts = _settings(name, changes or [])
    options |= own
    method = methods.for_language(methods.make(name, **options))
    if swaps is not None:
        method = methods.with_swaps(method, swaps)
    for change, axis, field, value in of_parts:
        if axis not in method.parts:
            raise _no_setting(change)
        spec = method.parts[axis].to_dict() | {field: value} if field else value
        method = method.replace(**{axis: spec})
    return method


def _settings(
    name: str, changes: list[str]
) -> tuple[dict[str, Any], list[tuple[str, str, str, Any]]]:
    """Options of the method, and (as given, axis, option or nothing, value) of its parts.

    ``method.perturb=sam`` means ``perturb=sam`` where the method has no such option.
    """
    own: dict[str, Any] = {}
    of_parts = []
    exchanged = {axis.registry.kind for axis in AXES} - methods.METHODS[name].options.keys()
    for change in changes:
        key, _, value = change.partition("=")
        axis, _, field = key.partition(".")
        if not value:
            raise _no_setting(change)
        if axis == "method" and field.partition(".")[0] in exchanged:
            axis, _, field = field.partition(".")
        if axis == "method" and field:
            own[field] = read_yaml(value)
        else:
            of_parts.append((change, axis, field, read_yaml(value)))
    return own, of_parts


def _no_setting(change: str) -> SteppeError:
    return SteppeError(
        "--set takes method.option=value, axis=part or axis.option=value",
        got=repr(change),
        way_out=f"axes: {', '.join(axis.registry.kind for axis in AXES)}",
    )


def job(
    model: Model,
    method: MethodName,
    sparsity: Sparsity = None,
    structure: Shape = None,
    score: Annotated[str | None, _option("what matters")] = None,
    budget: Annotated[str | None, _option("uniform, per_row, owl, evopress, ...")] = None,
    rho: Annotated[float | None, _option("SAFE: radius of the perturbation")] = None,
    penalty: Annotated[str | None, _option("SAFE, ADMM: strength of the pull, or auto")] = None,
    interval: Annotated[str | None, _option("SAFE, ADMM: steps between updates, or auto")] = None,
    swaps: Annotated[int | None, _option("exchanges of weights in each row afterwards")] = None,
    changes: Set = None,
    target: Annotated[str | None, _option(TARGET)] = None,
    latency_table: Annotated[Path | None, _option("of steppe latency, for times")] = None,
    **options: Any,
) -> PreparedPruning:
    """What the options ask for, checked, with nothing long done yet.

    Args:
        model, method, sparsity, structure, score, budget, rho, penalty, interval, swaps, changes,
        target, latency_table: see their help.
        options: see `configured`.

    Raises:
        SteppeError: the options do not fit each other, or no shape meets the target.
    """
    from steppe.llm.prepare import PreparedPruning
    from steppe.llm.structured.fitting import fitted
    from steppe.llm.structured.target import Target

    if target is not None:
        if sparsity is not None:
            raise SteppeError(
                "a target decides how much is removed",
                got=f"--target {target} and --sparsity {sparsity:g}",
                way_out="one of the two",
            )
        sparsity = 0.5  # the target replaces it
    parts = {"sparsity": sparsity, "structure": structure, "score": score, "budget": budget}
    pull = {"penalty": number_or_word(penalty), "interval": number_or_word(interval)}
    made = build(method, {}, changes, parts | {"rho": rho} | pull, swaps)
    if target is not None:
        patterns = {name: tuple(options.get(name) or ()) for name in ("include", "exclude")}
        table = latency_table if Target.parse(target).timed else None
        family = options.get("family")
        made = fitted(made, model, target, table=table, family=family, **patterns)
    shape = f"-{structure.replace(':', '-')}" if structure else ""
    shape += "" if swaps is None else f"-swaps{swaps}"
    much = f"{made.sparsity:g}" if target is None else target.replace("=", "-")
    name = f"{Path(model).name}-{made.name}-{much}{shape}"
    return PreparedPruning(model, made, configured(PruneConfig, name, options))


def configured(kind: type[Config], name: str, options: dict[str, Any]) -> Config:
    """A job's configuration.

    Args:
        kind: of the job.
        name: of its folder under ``runs``, if the options name none; the seed is added.
        options: its fields, and those of `ReconstructionConfig` in its place; None where the
            command line says nothing.
    """
    given = {name: value for name, value in options.items() if value is not None}
    own = {name: given.pop(name) for name in _OF_THE_RECONSTRUCTION if name in given}
    own.setdefault("warmup_epochs", own.get("epochs", ReconstructionConfig.epochs) / 10)
    seed = given.get("seed", kind.model_fields["seed"].default)
    given.setdefault("out", Path("runs") / f"{name}-seed{seed}")
    return kind.of(reconstruction=own, **given)


_OF_THE_RECONSTRUCTION = ("epochs", "warmup_epochs", "lr", "batch_size")
"""The fields of `ReconstructionConfig` that the command line shows."""
SHOWN = {
    "out": "the new folder [runs/MODEL-METHOD-SPARSITY-seedN]",
    "warmup_epochs": "of them warming up [a tenth]",
}
"""Help where the command's default is not the field's."""


def config_options(
    kind: type[PruneConfig], shown: Mapping[str, str] = SHOWN
) -> Iterator[inspect.Parameter]:
    """The options of a command that stand for a configuration, made from its fields.

    Args:
        kind: of the configuration.
        shown: option -> help, where it has no default of its own here; "" hides it.
    """
    for name, field in kind.model_fields.items():
        if name == "reconstruction":
            fields = ReconstructionConfig.__dataclass_fields__
            kinds = get_type_hints(ReconstructionConfig)
            for inner in _OF_THE_RECONSTRUCTION:
                text = fields[inner].metadata["description"]
                yield _parameter(inner, kinds[inner], fields[inner].default, text, shown)
        elif shown.get(name, name):
            yield _parameter(name, field.annotation, field.default, str(field.description), shown)


def _parameter(
    name: str, kind: Any, default: Any, description: str, shown: Mapping[str, str]
) -> inspect.Parameter:
    """A field as an option: of many values if it is a tuple, of text if it may be one."""
    members = get_args(kind)
    if get_origin(kind) is tuple:
        kind, default = list[str] | None, None
    elif str in members:  # of what else it may be, a command line says none
        kind = str | None
    if name in shown:
        kind, default = kind | None, None
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[kind, _option(shown.get(name, description))],
    )


Command = Callable[["functools.partial[Any]", bool, bool], None]


def takes_a_job(run: Command) -> Callable[..., None]:
    """A command with the options of `job`, ``--json`` and ``--quiet``.

    Args:
        run: called with a function that makes the job, whether JSON is wanted, and quiet.
    """
    return taking(job, config_options(PruneConfig), run)


def taking(
    make: Callable[..., Any], more: Iterable[inspect.Parameter], run: Command
) -> Callable[..., None]:
    """A command with a function's parameters and more options, ``--json`` and ``--quiet``.

    Args:
        make: makes the job; its last parameter takes the options.
        more: the options.
        run: called with a function that makes the job, whether JSON is wanted, and quiet.
    """

    def called(json: bool = False, quiet: bool = False, **given: Any) -> None:
        run(functools.partial(make, **given), json, quiet)

    ends = {
        "json": Annotated[bool, _option("one JSON object on stdout", "--json")],
        "quiet": Annotated[bool, _option("no progress", "--quiet")],
    }
    unseen = {"PreparedPruning": object, "PreparedRecovery": object}
    hints = get_type_hints(make, localns=unseen, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    own = [p for p in inspect.signature(make).parameters.values() if p.name != "options"]
    shared = [p.replace(annotation=hints[p.name]) for p in own]
    last = [inspect.Parameter(n, keyword, default=False, annotation=t) for n, t in ends.items()]
    options = [*shared, *more, *last]
    # typer reads a command's options from its signature
    vars(called)["__signature__"] = inspect.Signature(options)
    called.__annotations__ = {p.name: p.annotation for p in options}
    called.__doc__ = run.__doc__
    return called
