"""A run that was begun and not finished: what goes on with it."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import yaml

from steppe.core.errors import SteppeError
from steppe.core.text import read_yaml

RECIPE, RECORD = "recipe.yaml", "record.json"


def is_unfinished(folder: Path) -> bool:
    """Whether a run was begun in a folder and left no record yet."""
    return (folder / RECIPE).is_file() and not (folder / RECORD).exists()


def goes_on(folder: Path) -> str:
    """Which command goes on with a run, as far as its recipe says it.

    Args:
        folder: of the run.

    Example:
        >>> goes_on(Path("runs/nothing"))
        'the command that began it, with the same options, goes on where it was'
    """
    recipe = _recipe(folder)
    if "train" in recipe:
        own = ["steppe", "train", str(folder / RECIPE), "--out", str(folder)]
        return f"{shlex.join(own)} goes on where it was"
    try:
        model, method = str(recipe["model"]["name"]), str(recipe["method"]["name"])
    except (LookupError, TypeError):
        return "the command that began it, with the same options, goes on where it was"
    of_verb = ["recover", model] if "dense" in recipe else ["prune", model, "--method", method]
    began = f"{shlex.join(['steppe', *of_verb])} ... {shlex.join(['--out', str(folder)])}"
    return f"{began}, with the options that began it, goes on where it was"


def check_finished(folder: Path) -> None:
    """Whether a folder that is used as a model is no run that was begun and left none.

    Raises:
        SteppeError: it is one.
    """
    if is_unfinished(folder) and not (folder / "config.json").exists():
        raise SteppeError(
            "a run's model is there when the run is finished",
            got=f"{folder}, a run that is not finished",
            way_out=goes_on(folder),
        )


def _recipe(folder: Path) -> dict[str, Any]:
    try:
        stored = read_yaml((folder / RECIPE).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError):
        return {}
    return stored if isinstance(stored, dict) else {}
