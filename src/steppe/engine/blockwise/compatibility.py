"""Whether a method can prune a model block by block."""

from __future__ import annotations

from torch import Tensor

from steppe.core.calibration_statistics import CALIBRATION
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import BlockBudget, ExpertMerger, LevelBudget, Score, StreamSolver
from steppe.engine.blockwise.allocation import counts_of
from steppe.engine.blockwise.solve import as_start
from steppe.method import Method


def needs_windows(method: Method) -> bool:
    """Whether the method looks at what the layers are given, so that calibration is needed."""
    profiled_by = Score.make(method.profiled_by).needs if method.profiled_by else ()
    searches = isinstance(method.budget, LevelBudget | BlockBudget)
    optimised = method.objective.scope == "block"
    # what a solver provides to the score, it has from them
    needs = method.calibration_needs or method.score.needs
    solver = method.solver
    merged = isinstance(solver, ExpertMerger)  # weighed by the tokens that experts get
    looks = isinstance(solver, StreamSolver) and solver.looks
    return bool(needs or optimised or profiled_by or searches or merged or looks)


def check(method: Method, layers: list[Layer], tokens: Tensor | None) -> None:
    """Whether a method can prune these layers block by block; everything that fails, fails here.

    Raises:
        SteppeError: by the layer's name where it is one layer's fault.
    """
    if method.objective.scope == "task":
        raise SteppeError(
            "blockwise pruning needs an objective over layers or blocks",
            got=f"method {method.name} with objective {method.objective.name}",
            way_out="objective='block_reconstruction', or layer_reconstruction",
        )
    start = method.objective.starts_from
    if start is not None:
        as_start(method, start)
    method.structure.check_all(layers)
    counts_of(method, layers, dict.fromkeys((x.name for x in layers), 0.0))
    for need in sorted(method.calibration_needs):
        if need not in CALIBRATION:
            raise SteppeError(
                "calibration gives activations only",
                got=f"method {method.name}, which needs the {need}",
                way_out=f"choose a score that needs {' or '.join(CALIBRATION)}",
            )
    if tokens is None and needs_windows(method):
        raise SteppeError(
            f"method {method.name} needs calibration text",
            way_out="--calibration FILE, FOLDER or DATASET",
        )
