"""What is known of the runs of a sweep: each by itself, and averaged over seeds."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from steppe.core.serialization import read_json, write_text
from steppe.experiment.tasks import Quality
from steppe.report.column import Cell
from steppe.sweeps.grid import Point
from steppe.sweeps.job import Outcome

FILE = "sweep.json"


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run.

    Args:
        name: of its folder.
        values: place -> value.
        state: waiting, done or failed.
        figure: how good it is; None until it is done, or where that is no finite number.
        sparsity: zeros it reached, a fraction.
        seconds: it took.
        reason: why it failed, in a line.
        traceback: of what is no user's error.
    """

    name: str
    values: dict[str, Any]
    state: Literal["waiting", "done", "failed"] = "waiting"
    figure: float | None = None
    sparsity: float | None = None
    seconds: float | None = None
    reason: str = ""
    traceback: str = ""

    def after(self, outcome: Outcome, quality: Quality) -> Run:
        """With what came of it.

        Args:
            outcome: of the run.
            quality: which figure of its record counts.
        """
        if outcome.reason:
            return replace(self, state="failed", reason=outcome.reason, traceback=outcome.traceback)
        record = outcome.record
        return replace(
            self,
            state="done",
            figure=quality.read(record),
            sparsity=record["sparsity_reached"],
            seconds=record["seconds"],
        )


@dataclass(frozen=True, kw_only=True)
class Setting:
    """Runs that differ in the seed alone.

    Args:
        values: place -> value, without the seed.
        runs: in the order of the seeds.
    """

    values: dict[str, Any]
    runs: tuple[Run, ...]

    @property
    def cell(self) -> Cell | None:
        """Mean and standard error over the seeds; None where nothing is known."""
        return Cell.of(run.figure for run in self.runs)

    @property
    def whole(self) -> bool:
        """Whether every run of it is done and has a figure."""
        return all(run.figure is not None for run in self.runs)


def settings_of(runs: Sequence[Run], varied: Sequence[Point]) -> list[Setting]:
    """The runs by what they share, in the order of the first of each.

    Args:
        runs: of a sweep.
        varied: the points that they run, in the same order.
    """
    together: dict[str, list[Run]] = {}
    values: dict[str, dict[str, Any]] = {}
    for run, point in zip(runs, varied, strict=True):
        key = json.dumps(point.setting, sort_keys=True, default=str)
        together.setdefault(key, []).append(run)
        values[key] = point.setting
    return [Setting(values=values[key], runs=tuple(own)) for key, own in together.items()]


def ranked(settings: Iterable[Setting], higher: bool) -> list[Setting]:
    """The settings, the best first; those with a run that failed or waits come last.

    Args:
        settings: of a sweep.
        higher: whether more is better.
    """

    def key(setting: Setting) -> tuple[bool, float]:
        if setting.cell is None:
            return True, float("inf")
        return not setting.whole, -setting.cell.mean if higher else setting.cell.mean

    return sorted(settings, key=key)


def best_of(settings: Iterable[Setting], higher: bool) -> Setting | None:
    """The best setting of which every run is done; None where there is none."""
    first = next(iter(ranked(settings, higher)), None)
    return first if first is not None and first.whole else None


def read(out: Path) -> tuple[dict[str, Any], dict[str, Run]]:
    """What a sweep's file says it is, and its runs by their names; empty where there is none.

    Raises:
        SteppeError: the file is damaged.
    """
    if not (out / FILE).exists():
        return {}, {}
    whole = read_json(out / FILE)
    return whole["sweep"], {row["name"]: Run(**row) for row in whole["runs"]}


def write(
    out: Path, sweep: Mapping[str, Any], runs: Iterable[Run], more: Mapping[str, Any]
) -> None:
    """Write a sweep's file, whole or not at all.

    Args:
        out: the sweep's folder.
        sweep: what it is.
        runs: of it.
        more: what follows from them.
    """
    whole = {"sweep": sweep, "runs": [asdict(run) for run in runs]} | dict(more)
    write_text(out / FILE, json.dumps(whole, indent=2, allow_nan=False) + "\n")
