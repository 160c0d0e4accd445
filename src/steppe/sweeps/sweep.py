"""A sweep: settings of a recipe, run in folders that are never done twice."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from steppe.core.courtesy import courtesy
from steppe.core.errors import SteppeError
from steppe.core.serialization import sweep as clear
from steppe.core.serialization import write_text
from steppe.engine.run_folder import alone_in, differences
from steppe.experiment.tasks import Quality, task_of
from steppe.experiment.varied import set_at
from steppe.sweeps import results
from steppe.sweeps.backends import BACKENDS, Resources
from steppe.sweeps.grid import Point, Variation, points, shown
from steppe.sweeps.job import Job
from steppe.sweeps.picture import picture
from steppe.sweeps.results import FILE, Run, Setting, best_of, settings_of

PICTURE = "sweep.svg"


class Sweep:
    """All settings of a recipe, checked before anything is run.

    Args:
        recipe: as plain data, with no base that is a relative path.
        varied: places and their values.
        out: the folder; the runs' folders lie in it.
        flag: with which the user says what varies, for messages.

    Raises:
        SteppeError: a key or value that the recipe does not have; nothing is measured.

    Example:
        >>> digits = {"data": "digits", "method": {"name": "gmp", "sparsity": 0.9}}
        >>> sweep = Sweep(digits, [Variation("train.lr", (0.1, 0.2))], Path("runs/sweep"))
        >>> [run.name for run in sweep.runs]
        ['lr=0.1', 'lr=0.2']
    """

    def __init__(
        self,
        recipe: Mapping[str, Any],
        varied: Sequence[Variation],
        out: Path,
        flag: str = "--vary",
    ) -> None:
        self.out, self.varied, self._flag = out, tuple(varied), flag
        self._task = task_of(recipe)
        self._base = self._task.load(recipe, "the recipe", None)
        self._plain: dict[str, Any] = self._base.plain()
        self.quality: Quality = self._task.quality(self._base)
        self.points: list[Point] = list(points(self.varied))
        self._recipes = {point.name: self._recipe(point) for point in self.points}
        self.runs: list[Run] = [Run(name=p.name, values=p.values) for p in self.points]

    def _recipe(self, point: Point) -> dict[str, Any]:
        """Of a run, whole."""
        plain = copy.deepcopy(self._plain)
        for place, value in point.values.items():
            set_at(plain, place, copy.deepcopy(value), f"{self._flag} {place}={shown(value)}")
        made = self._task.load(plain, "the recipe", None)
        made.build_method()
        made.train.config()
        whole: dict[str, Any] = made.plain()
        return whole

    @property
    def settings(self) -> list[Setting]:
        """The runs, averaged over their seeds."""
        return settings_of(self.runs, self.points)

    @property
    def best(self) -> Setting | None:
        """The best setting of which every run is done."""
        return best_of(self.settings, self.quality.higher)

    @property
    def failed(self) -> list[Run]:
        """The runs that failed."""
        return [run for run in self.runs if run.state == "failed"]

    def run(
        self,
        on: str = "here",
        resources: Resources | None = None,
        *,
        quiet: bool = True,
        begun: Callable[[int], object] = lambda done: None,
        ended: Callable[[Run, int], object] = lambda run, left: None,
    ) -> None:
        """Run what is not done yet; a run that fails does not stop the others.

        Args:
            on: the backend's name.
            resources: of each run.
            quiet: no progress of the runs.
            begun: called once with how many runs are done already.
            ended: called with each run that ends, and how many are left.

        Raises:
            SteppeError: the folder holds another sweep; there is no such backend, or it lacks
                something.
        """
        backend, given = BACKENDS[on], resources or Resources()
        backend.check(given)
        with self._claimed():
            jobs = [self._job(run.name, quiet) for run in self.runs if run.state != "done"]
            begun(len(self.runs) - len(jobs))
            place = {run.name: i for i, run in enumerate(self.runs)}
            for outcome in backend.run(jobs, given) if jobs else ():
                i = place[outcome.name]
                self.runs[i] = self.runs[i].after(outcome, self.quality)
                self._write()
                ended(self.runs[i], sum(run.state == "waiting" for run in self.runs))
            with courtesy("the picture"):
                write_text(self.out / PICTURE, picture(self.settings, self.quality))

    def _job(self, name: str, quiet: bool) -> Job:
        out = (self.out / name).resolve()
        return Job(
            name=name,
            recipe=self._recipes[name],
            out=str(out),
            folder=str(Path.cwd()),
            quiet=quiet,
        )

    @cached_property
    def _identity(self) -> dict[str, Any]:
        """What makes two sweeps the same."""
        vary = {variation.place: list(variation.values) for variation in self.varied}
        return {"recipe": self._plain, "vary": vary, "quality": vars(self.quality)}

    @contextmanager
    def _claimed(self) -> Iterator[None]:
        """The folder is this sweep's, and nobody else's meanwhile; what is done there is known."""
        if self.out.exists() and not (self.out / FILE).exists():
            clear(self.out)  # of a sweep that was killed at its very start
            if not self.out.is_dir() or any(self.out.iterdir()):
                raise SteppeError(
                    "--out must be a new, empty or earlier sweep's folder",
                    got=str(self.out),
                    way_out="choose another --out",
                )
        self.out.mkdir(parents=True, exist_ok=True)
        with alone_in(self.out):
            stored, earlier = results.read(self.out)
            if stored:
                self._check(stored)
            for i, run in enumerate(self.runs):
                before = earlier.get(run.name, run)
                if before.state == "done" and (self.out / run.name / "record.json").exists():
                    self.runs[i] = before
            self._write()
            yield

    def _check(self, stored: dict[str, Any]) -> None:
        """The same recipe and places; more values are no other sweep.

        Raises:
            SteppeError: it is another one.
        """
        own = self._identity
        today = self._base.as_today(stored["recipe"])
        wrong = [f"recipe.{key}" for key in differences(today, own["recipe"])]
        wrong += sorted(stored["vary"].keys() ^ own["vary"].keys())
        wrong += [
            f"{place} without {shown(value)}"
            for place, values in stored["vary"].items()
            for value in values
            if value not in own["vary"].get(place, values)
        ]
        if wrong:
            raise SteppeError(
                "a folder holds one sweep, which may get more values and seeds",
                got=f"{self.out}, whose sweep differs in {', '.join(wrong)}",
                way_out="choose another --out",
            )

    def _write(self) -> None:
        best = self.best
        cell = best.cell if best is not None else None
        more = {
            "best": None
            if best is None or cell is None
            else {"values": best.values, **vars(cell), "runs": [run.name for run in best.runs]}
        }
        results.write(self.out, self._identity, self.runs, more)
