"""Where a run goes on: one file for all processes, or one for the part of each."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.split import is_split, load_parts, parts_in
from steppe.engine import ranks
from steppe.engine.run_folder import LAST, RunFolder


class Checkpoints:
    """The checkpoints of a run.

    Args:
        run: its folder; None keeps nothing.
        model: whose weights are in them.
    """

    def __init__(self, run: RunFolder | None, model: nn.Module) -> None:
        self._run, self._model = run, model
        self.split = any(is_split(p) for p in model.parameters())
        """Whether each process has a file of its own."""
        self._of = f"-{ranks.rank() + 1}-of-{ranks.world()}" if self.split else ""

    @property
    def notes(self) -> Iterable[str]:
        """What was damaged, and what is used instead."""
        return self._run.notes if self._run is not None else ()

    def alone(self) -> AbstractContextManager[None]:
        """No other run goes on with them meanwhile; the first of several processes sees to that.

        Raises:
            SteppeError: another one is at work.
        """
        return self._run.alone() if self._run is not None and ranks.first() else nullcontext()

    def save(self, state: Callable[[], dict[str, Any]]) -> None:
        """The newest; the one before it is kept too.

        Args:
            state: what is saved beside the model's weights, made where it is needed.
        """
        if self._run is None or not (self.split or ranks.first()):
            return
        whole = state() | {"model": self._model.state_dict()}
        self._run.save_checkpoint(parts_in(whole) if self.split else whole, self._of)

    def load(self) -> dict[str, Any] | None:
        """The newest that is whole in every process, its weights in the model; or None.

        Raises:
            SteppeError: it is of another model, or of another number of processes.
        """
        if self._run is None:
            return None
        found = self._run.load_checkpoint(self._of, self._common if self.split else None)
        if found is None:
            self._check_none_of_others()
            return None
        try:
            if self.split:
                load_parts(self._model, found["model"])
            else:
                self._model.load_state_dict(found["model"])
        except (RuntimeError, KeyError) as error:
            raise SteppeError(
                "a checkpoint must be of the model that goes on",
                got=f"{self._run.path}: {str(error)[:200]}",
                way_out="another --out, or the model as it was",
            ) from None
        return found

    def _common(self, steps: list[int]) -> int | None:
        """Of the steps of this process's files the newest that all processes have."""
        import torch.distributed as dist

        every: list[Any] = [None] * ranks.world()
        dist.all_gather_object(every, steps)
        return max(set.intersection(*map(set, every)), default=None)

    def _check_none_of_others(self) -> None:
        """A process that was killed early may have left none; another number is another run."""
        assert self._run is not None
        stem, _, ending = LAST.partition(".")
        own = rf"{stem}-\d+-of-{ranks.world()}\.{ending}" if self.split else re.escape(LAST)
        there = (p.name for p in (self._run.path / "checkpoints").glob(f"{stem}*.{ending}"))
        others = sorted(name for name in there if not re.fullmatch(own, name))
        if others:
            raise SteppeError(
                "a run that is split goes on with as many processes as it began with",
                got=f"{', '.join(others[:3])} in {self._run.path}, and {ranks.world()} processes "
                + ("that split the model" if self.split else "that do not split the model"),
                way_out="as many processes and --shard as before, or another --out",
            )
