"""Which options of ADMM fit each other."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from steppe.core.curves import CURVES
from steppe.core.errors import SteppeError, unknown
from steppe.core.seed import checked_seed
from steppe.coupling.admm.automatic import AUTO, PULL
from steppe.coupling.admm.penalties import PENALTIES

if TYPE_CHECKING:
    from steppe.coupling.admm.admm import Admm


def check(admm: Admm) -> None:
    """Raise SteppeError when an option is out of its range, or means nothing beside others."""
    if not (_auto_or(admm.penalty, 0) and _auto_or(admm.interval, 1)):
        raise SteppeError(
            "admm needs a finite penalty >= 0 and an interval of at least one step, or auto",
            got=f"penalty {admm.penalty}, interval {admm.interval}",
        )
    if not 0.0 < admm.pull < math.inf or (admm.pull != PULL and not admm.moves_weights):
        raise SteppeError(
            "pull is a finite number above 0, and belongs to penalty auto",
            got=f"pull {admm.pull}, penalty {admm.penalty}",
            way_out="penalty auto, or leave out the pull",
        )
    curves = CURVES if admm.moves_weights else PENALTIES
    if admm.curve not in curves:
        raise unknown("penalty schedule", admm.curve, curves)
    if admm.moves_weights and (admm.held or admm.start):
        raise SteppeError(
            "held and start belong to a penalty that is a number",
            got=f"penalty auto, held {admm.held}, start {admm.start}",
            way_out="penalty 0.01, or leave them out",
        )
    _check_start(admm)
    if admm.state_dtype not in (None, "bfloat16"):
        raise SteppeError(
            "admm's state is kept as the weights are, or in bfloat16",
            got=f"state_dtype {admm.state_dtype!r}",
            way_out="state_dtype None (null) or bfloat16",
        )
    checked_seed(admm.seed)


def _check_start(admm: Admm) -> None:
    if not 0.0 <= admm.start < math.inf or (admm.start and admm.curve == "constant"):
        raise SteppeError(
            "start is a finite number >= 0, of a penalty that is not constant",
            got=f"start {admm.start}, penalty schedule {admm.curve}",
            way_out="penalty schedule cosine, or leave out the start",
        )
    if admm.curve == "exponential" and not (admm.start and admm.penalty):
        raise SteppeError(
            "an exponential penalty starts and ends above 0",
            got=f"start {admm.start}, penalty {admm.penalty}",
            way_out="start 1e-4, or penalty schedule cosine",
        )


def _auto_or(value: float | str, least: float) -> bool:
    return value == AUTO if isinstance(value, str) else least <= value < math.inf
