"""What of a method works on weights that are split over processes, said before any work."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling, NeuronPerturb
from steppe.core.split import is_split
from steppe.core.statistic import STATISTICS
from steppe.engine.step.options import StepOptions
from steppe.method import Method

_WHOLE = "DistributedDataParallel, where each process holds whole weights"


def check_split(
    weights: Mapping[str, nn.Parameter], method: Method, coupling: Coupling, options: StepOptions
) -> None:
    """Look at the parts of a method, where the weights that it prunes are split (FSDP2).

    Raises:
        SteppeError: a part would need more than a process holds, or they are split otherwise than
            by rows.
    """
    split = [name for name, w in weights.items() if is_split(w)]
    if not split:
        return
    for got, way_out in _misfits(weights, method, coupling, options):
        raise SteppeError(
            "of a method for weights that are split over processes (FSDP2) each part works by rows",
            got=got,
            way_out=f"{way_out}, or {_WHOLE}",
        )


def _misfits(
    weights: Mapping[str, nn.Parameter], method: Method, coupling: Coupling, options: StepOptions
) -> list[tuple[str, str]]:
    """(what does not fit, what would)."""
    found: list[tuple[str, str]] = []
    for name, weight in weights.items():
        if not _by_rows(weight):
            found.append((f"{name}, which is not", "fully_shard over one dimension of processes"))
            break
    if coupling.parametrization is not None or not coupling.elementwise:
        found.append((f"coupling {coupling.name}", "coupling admm or hard_mask"))
    needs = [n for n in method.score.needs if not STATISTICS[n].elementwise]
    if needs:
        found.append((f"score {method.score.name}, which reads {needs[0]}", "score magnitude"))
    if any(isinstance(part, NeuronPerturb) for part in method.perturb.parts):
        found.append((f"perturb {method.perturb.name}", "perturb sam"))
    if options.sync == "local":
        found.append(("sync local", "sync global"))
    if "reference_outputs" in method.objective.reads and options.reference is None:
        found.append(
            (
                f"objective {method.objective.name}, which copies the model",
                "StepOptions(reference=...), a teacher of its own",
            )
        )
    return found


def _by_rows(weight: Any) -> bool:
    """Whether it is split in its first dimension over one dimension of processes."""
    if not is_split(weight):
        return False
    placements = tuple(weight.placements)
    return len(placements) == 1 and placements[0].is_shard(dim=0)
