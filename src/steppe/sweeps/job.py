"""One run of a sweep, wherever it runs: its recipe, its folder, what came of it."""

from __future__ import annotations

import contextlib
import traceback
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError
from steppe.engine.run_folder import alone_in
from steppe.experiment.tasks import task_of


@dataclass(frozen=True, kw_only=True)
class Job:
    """What a backend is given; plain data, so that it can go to another machine.

    Args:
        name: of the run.
        recipe: as plain data, whole.
        out: the run's folder, absolute.
        folder: from where the recipe's relative paths start, absolute.
        quiet: no progress of the run.
    """

    name: str
    recipe: Mapping[str, Any]
    out: str
    folder: str
    quiet: bool = True

    def run(self) -> Outcome:
        """Run it, or go on with it, or find that it is done; every error is an outcome.

        A worker may outlive its killed sweep by a moment: that of the next one waits for it.
        """
        out = Path(self.out)
        try:
            out.mkdir(parents=True, exist_ok=True)
            with contextlib.chdir(self.folder), alone_in(out, wait=True):
                task = task_of(self.recipe)
                recipe = task.load(self.recipe, "the recipe", None)
                return Outcome(name=self.name, record=task.train(recipe, out, self.quiet))
        except Exception as error:  # whatever ends a run, the others go on
            return Outcome.failed(self.name, error)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run.

    Args:
        name: of the run.
        record: of the run; empty where it failed.
        reason: of a failure, in a line.
        traceback: of a failure that is no user's error.
    """

    name: str
    record: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""
    traceback: str = ""

    @classmethod
    def failed(cls, name: str, error: BaseException) -> Outcome:
        """What an error leaves.

        Args:
            name: of the run.
            error: that ended it.
        """
        text = " ".join(str(error).split())
        if isinstance(error, SteppeError):
            return cls(name=name, reason=text)
        whole = "".join(traceback.format_exception(error))
        return cls(name=name, reason=f"{type(error).__name__}: {text}"[:300], traceback=whole)
