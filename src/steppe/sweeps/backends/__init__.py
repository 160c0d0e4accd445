"""Who runs the runs of a sweep: one file each, found by the registry."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.sweeps.job import Job, Outcome


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What the user says of the machines; None where nothing is said.

    Args:
        workers: runs at the same time.
        cpus: cores of each run.
        gpus: of each run; a part of one lets several runs share it.
        address: of a cluster that is there already.
    """

    workers: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        few = [
            f"--{name} {value}"
            for name, value, least in (("workers", self.workers, 1), ("cpus", self.cpus, 1))
            if value is not None and value < least
        ]
        if few or (self.gpus is not None and self.gpus < 0):
            raise SteppeError(
                "a sweep has a worker and a core for each run at least",
                got=", ".join(few) or f"--gpus {self.gpus}",
                way_out="--workers 2 --cpus 1",
            )

    @property
    def given(self) -> list[str]:
        """The flags that the user gave."""
        said = {k: v for k, v in vars(self).items() if v is not None}
        return [f"--{name} {value}" for name, value in said.items()]


class Backend(Protocol):
    """Runs jobs; what they leave lies in their folders, which it must see."""

    name: ClassVar[str]

    @classmethod
    def check(cls, resources: Resources) -> None:
        """Whether it is there, before anything is written.

        Raises:
            SteppeError: what it needs is not installed, or it does not know a resource.
        """
        ...

    @classmethod
    def run(cls, jobs: Sequence[Job], resources: Resources) -> Iterator[Outcome]:
        """Call `Job.run` of each job, in any order and in any process.

        Args:
            jobs: of a sweep that are not done.
            resources: as the user said.

        Yields:
            What came of each, as soon as it ends; a worker that dies is an outcome too.
        """
        ...


BACKENDS: Registry[type[Backend]] = Registry("backend of a sweep", "steppe.sweeps.backends")
