"""Which folders a report is of, and the commands that end what is not finished."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from steppe.core.unfinished import goes_on, is_unfinished


def folders(runs: Iterable[Path]) -> Iterator[Path]:
    """The runs, each once; of a folder that is none, the runs in it."""
    seen: set[Path] = set()
    for run in runs:
        inner = sorted(run.glob("*/record.json")) if run.is_dir() else []
        within = [path.parent for path in inner] if not (run / "record.json").exists() else []
        for one in within or [run]:
            if one.resolve() not in seen:
                seen.add(one.resolve())
                yield one


def finished(runs: Iterable[Path]) -> tuple[list[Path], list[str]]:
    """The runs that can be read, where some are not finished; all where none is.

    Args:
        runs: folders or files, see `steppe.report.record.read_records`.

    Returns:
        Those, and a sentence for each that is left out.
    """
    every = list(folders(runs))
    open_ = [run for run in every if is_unfinished(run)]
    if len(open_) == len(every):
        return every, []
    notes = [f"{run} is not finished and left out; {goes_on(run)}" for run in open_]
    return [run for run in every if run not in open_], notes


def again(run: Path, removal: Mapping[str, Any] | None = None) -> list[str]:
    """The commands that make a run once more; none where `steppe train` had no part in it.

    Args:
        run: its folder.
        removal: what the record of a network that steppe remove made says of that. The run that
            it was made of comes first, by the same recipe.
    """
    recipe = run / "recipe.yaml"
    if not _trains(recipe):
        return []
    if removal is None:
        return [_train(recipe, run)]
    if not isinstance(removal.get("source"), str):
        return [f"# steppe remove made {run}; its record does not say of which run"]
    source = Path(os.path.normpath(run / removal["source"]))
    own = source / "recipe.yaml"
    remove = ["steppe", "remove", str(source), "--out", str(run)]
    return [
        _train(own if _trains(own) else recipe, source),
        shlex.join(remove + ["--onnx"] * ("onnx" in removal)),
    ]


def _train(recipe: Path, run: Path) -> str:
    return shlex.join(["steppe", "train", str(recipe), "--out", str(run)])


def _trains(recipe: Path) -> bool:
    """Whether it is a recipe of `steppe train`."""
    return recipe.is_file() and "\ntrain:" in recipe.read_text(encoding="utf-8", errors="replace")
