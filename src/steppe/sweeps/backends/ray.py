"""On ray: several runs at once, on one machine or many."""

from __future__ import annotations

import contextlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from typing import Any

from steppe.core.errors import SteppeError
from steppe.sweeps.backends import BACKENDS, Resources
from steppe.sweeps.job import Job, Outcome

LOCAL = "local"
"""The address that makes ray start on this machine, and end with the sweep."""


@BACKENDS.register("ray")
class Ray:
    """A ray of its own on this machine, or the cluster at ``--address`` or ``RAY_ADDRESS``."""

    name = "ray"

    @classmethod
    def check(cls, resources: Resources) -> None:
        if importlib.util.find_spec("ray") is None:
            raise SteppeError(
                "--on ray needs ray",
                got="it is not installed",
                way_out="pip install 'steppe[sweep]', or leave --on out: one run after another",
            )

    @classmethod
    def run(cls, jobs: Sequence[Job], resources: Resources) -> Iterator[Outcome]:
        with _connected(resources) as ray:
            workers, options = _shares(_nodes(ray), resources)
            remote = ray.remote(**options)(Job.run)
            waiting = list(jobs)
            at_work: dict[Any, Job] = {}
            while waiting or at_work:
                while waiting and len(at_work) < workers:
                    job = waiting.pop(0)
                    at_work[remote.remote(job)] = job
                (ended,), _ = ray.wait(list(at_work))
                job = at_work.pop(ended)
                try:
                    yield ray.get(ended)
                except ray.exceptions.RayError as error:  # the worker died
                    yield Outcome(name=job.name, reason=f"its worker ended: {_first_line(error)}")


@contextlib.contextmanager
def _connected(resources: Resources) -> Iterator[Any]:
    """The package ray, connected."""
    # before the import, which reads them: no report to ray's makers, unless the user wants it
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    address = resources.address or os.environ.get("RAY_ADDRESS") or LOCAL
    own = {"include_dashboard": False} if address == LOCAL else {}
    try:
        ray.init(address=address, log_to_driver=False, logging_level="ERROR", **own)
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise SteppeError(
            "ray must be reached",
            got=f"{_first_line(error)} for {address}",
            way_out="ray start --head on one machine and --address HOST:6379 here, or leave "
            "--address out for a ray of its own",
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _nodes(ray: Any) -> list[dict[str, float]]:
    """What each machine has."""
    return [node["Resources"] for node in ray.nodes() if node["Alive"]]


def _shares(
    nodes: Sequence[dict[str, float]], resources: Resources
) -> tuple[int, dict[str, float | int]]:
    """How many runs at once, and what ray keeps for each.

    A GPU for each run where there are any, otherwise a machine; of the cores of a machine, its
    share. No run is tried again by ray: the sweep, started again, does that.

    Args:
        nodes: what each machine has, ``CPU`` and ``GPU``.
        resources: as the user said.

    Raises:
        SteppeError: no machine has as much.

    Example:
        >>> _shares([{"CPU": 8.0}], Resources(workers=2))
        (2, {'num_cpus': 4, 'num_gpus': 0, 'max_retries': 0})
        >>> _shares([{"CPU": 16.0, "GPU": 2.0}] * 2, Resources())
        (4, {'num_cpus': 8, 'num_gpus': 1, 'max_retries': 0})
    """
    there = [node.get("GPU", 0.0) for node in nodes]
    gpus = (1 if any(there) else 0) if resources.gpus is None else resources.gpus
    most = sum(int(n // gpus) for n in there) if gpus else len(nodes)
    workers = resources.workers or max(most, 1)
    usable = [node for node in nodes if node.get("GPU", 0.0) >= gpus]
    on_one = -(-workers // max(len(usable), 1))
    cores = min((int(node.get("CPU", 0.0)) for node in usable), default=0)
    cpus = resources.cpus or max(cores // on_one, 1)
    if not any(node.get("CPU", 0.0) >= cpus for node in usable):
        had = ", ".join(f"{n.get('CPU', 0):g} cores {n.get('GPU', 0):g} GPUs" for n in nodes)
        raise SteppeError(
            "a machine must have what a run asks for",
            got=f"{cpus} cores and {gpus:g} GPUs, where there are machines of {had}",
            way_out="fewer --cpus or --gpus",
        )
    return workers, {"num_cpus": cpus, "num_gpus": gpus, "max_retries": 0}


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason")
