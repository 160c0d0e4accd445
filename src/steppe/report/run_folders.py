"""Which folders a report is of, and the commands that end what is not finished."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Iterable, Iterator
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


def again(run: Path) -> list[str]:
    """The commands that make a run once more; none where `steppe train` had no part in it.

    What steppe remove made needs the run that it was made of first, by the same recipe.
    """
    if not _trained(run):
        return []
    recipe = str(run / "recipe.yaml")
    if not (run / "removal.safetensors").is_file():
        return [shlex.join(["steppe", "train", recipe, "--out", str(run)])]
    removed = _removed(run)
    if not isinstance(removed.get("source"), str):
        return [f"# steppe remove made {run}; its record does not say of which run"]
    source = Path(os.path.normpath(run / removed["source"]))
    first = again(source) or [shlex.join(["steppe", "train", recipe, "--out", str(source)])]
    last = ["steppe", "remove", str(source), "--out", str(run)]
    return [*first, shlex.join(last + ["--onnx"] * ("onnx" in removed))]


def _removed(run: Path) -> dict[str, Any]:
    """What the record says of the removal; where it does not, or is damaged, nothing."""
    try:
        removed = json.loads((run / "record.json").read_text(encoding="utf-8")).get("removed")
    except (OSError, ValueError, AttributeError):
        return {}  # whoever reads the record says so
    return removed if isinstance(removed, dict) else {}


def _trained(run: Path) -> bool:
    """Whether it is a run of `steppe train`, or what steppe remove made of one."""
    recipe = run / "recipe.yaml"
    return recipe.is_file() and "\ntrain:" in recipe.read_text(encoding="utf-8", errors="replace")
