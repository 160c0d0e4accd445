"""What ``steppe train`` takes for each task: its flags, and how a run of it ends on the screen."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.core.text import number_or_word
from steppe.experiment.method_spec import spelled_out
from steppe.experiment.strict import places
from steppe.experiment.tasks import TASKS
from steppe.experiment.tasks.image import ImageTask


@dataclass(frozen=True)
class Flag:
    """An option of the command line that stands for a key of the recipe.

    Args:
        place: of the recipe, with dots between its keys; empty for what is no part of it.
        kind: what typer reads.
        help: in a few words.
    """

    place: str
    kind: Any
    help: str


METHOD_FLAGS = {
    "method": Flag("method.name", str, "see steppe methods"),
    "sparsity": Flag("method.sparsity", float, "fraction of zeros, e.g. 0.95"),
    "structure": Flag("method.structure", str, "unstructured, 2:4, block:4x4, channel"),
    "rho": Flag("method.rho", float, "radius of the perturbation"),
    "penalty": Flag("method.penalty", str, "SAFE, ADMM: a number, or auto [auto; ELSA 0.01]"),
    "interval": Flag("method.interval", str, "SAFE, ADMM: steps, or auto [auto; ELSA 32]"),
    "score": Flag("method.score", str, "what matters"),
}


class Training(Protocol):
    """A task as the command line knows it."""

    flags: ClassVar[Mapping[str, Flag]]
    schema: ClassVar[type[BaseModel]]
    """Of its recipes."""

    @classmethod
    def begin(cls, model: str) -> dict[str, Any]:
        """The recipe, as plain data, that a network's name alone stands for."""
        ...

    @classmethod
    def put(cls, plain: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Flags into a recipe, in place; those of the method are in it already."""
        ...

    @classmethod
    def run(
        cls, plain: dict[str, Any], given: Mapping[str, Any], out: Path | None, *, quiet: bool
    ) -> dict[str, Any]:
        """Run a recipe and say what came of it; what ``--json`` prints."""
        ...


TRAININGS: Registry[type[Training]] = Registry("task of steppe train", "steppe.cli.training")


def places_called(key: str) -> list[str]:
    """The places in recipes of any task that a word may mean.

    Args:
        key: a flag's name of some task, or a key.

    Example:
        >>> places_called("warmup_epochs"), places_called("size"), places_called("nothing")
        (['train.warmup_epochs'], ['data.size'], [])
    """
    found: list[str] = []
    for task in (TRAININGS[name] for name in TRAININGS):
        flag = task.flags.get(key)
        found += [flag.place] if flag is not None and flag.place else []
        found += [p for p in places(task.schema) if "." in p and p.rpartition(".")[2] == key]
    return list(dict.fromkeys(found))


def no_flag(task: str, name: str, value: Any, chosen: bool = True) -> SteppeError:
    """The error for a flag of other tasks, with what says the same here.

    Args:
        task: that is trained.
        name: of the flag.
        value: that was given.
        chosen: whether a recipe or --task said which task; else the one may have been forgotten.
    """
    users = [n for n in TRAININGS if name in TRAININGS[n].flags]
    own = {*places(TRAININGS[task].schema)}
    meant = [p for n in users if (p := TRAININGS[n].flags[name].place) in own]
    sets = [f"--set {place}={value}" for place in dict.fromkeys(meant)]
    known = ", ".join(f"--{flag.replace('_', '-')}" for flag in TRAININGS[task].flags)
    images = [n for n in users if issubclass(TASKS[n], ImageTask)]  # what --task can name
    forgotten = f"--task {images[0]}, or " if len(images) == 1 and not chosen else ""
    leave = f"leave it out; {task} has {known}, and --set for any key"
    return SteppeError(
        f"--{name.replace('_', '-')} is for training of task {' or '.join(users)}",
        got=f"a run of task {task}",
        way_out=forgotten + (" or ".join(sets) or leave),
    )


def with_method(spec: dict[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's method with the flags of `METHOD_FLAGS`.

    Args:
        spec: as the recipe has it.
        given: flags of the command line.

    Raises:
        SteppeError: there is no method, or it is spelled out in parts.
    """
    flags = {
        key: number_or_word(given[key]) if METHOD_FLAGS[key].kind is str else given[key]
        for key in METHOD_FLAGS
        if key != "method" and given.get(key) is not None
    }
    name = given.get("method")
    if name is not None and name != spec.get("name"):
        spec = {"name": name}
    if not spec:
        raise SteppeError(
            "train needs a recipe or a method",
            way_out="steppe train RECIPE.yaml, or --method safe --sparsity 0.95",
        )
    if spelled_out(spec) and flags:
        raise SteppeError(
            "a recipe that spells out the seven parts takes no method flags",
            got=", ".join(flags),
            way_out="edit the recipe, or name a method with --method",
        )
    return spec | flags
