"""In this process, one after another."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from steppe.core.errors import SteppeError
from steppe.sweeps.backends import BACKENDS, Resources
from steppe.sweeps.job import Job, Outcome


@BACKENDS.register("here")
class Here:
    """One run after another; nothing is installed for it."""

    name = "here"

    @classmethod
    def check(cls, resources: Resources) -> None:
        if resources.given:
            raise SteppeError(
                "without another backend runs follow each other, with all that the machine has",
                got=", ".join(resources.given),
                way_out="--on ray, or leave it out",
            )

    @classmethod
    def run(cls, jobs: Sequence[Job], resources: Resources) -> Iterator[Outcome]:
        for job in jobs:
            yield job.run()
