"""Which folders a report is of, and the commands that end what is not finished."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

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
    """The command that trains a run."""
    return ["steppe", "train", str(run / "recipe.yaml"), "--out", str(run)]


def trained(run: Path) -> bool:
    """Whether it is a run of `steppe train`."""
    recipe = run / "recipe.yaml"
    return recipe.is_file() and "\ntrain:" in recipe.read_text(encoding="utf-8", errors="replace")
