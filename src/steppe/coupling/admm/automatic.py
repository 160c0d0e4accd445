"""ADMM's pull and interval as they follow from the number of steps alone."""

from __future__ import annotations

import math

import torch

from steppe.core.curves import curve
from steppe.core.protocols import Tensors
from steppe.core.step_context import StepContext
from steppe.core.text import counted
from steppe.coupling.admm.compact import apart

AUTO = "auto"
PULL = 10.0
"""All of the pull together, as in the paper's runs: sum of eta lam / (1 - momentum)."""
UPDATES = 2400
"""Dual updates of a run, as in the paper's; fewer where there are fewer steps."""
_SUMMED = 10**6  # steps that are added one by one; more would take seconds
HASTY = 0.5
"""A pull of one step, or between two updates, from which on it is nearly a projection."""


def interval_of(total: int) -> int:
    """K = round(T / 2400), at least 1.

    Example:
        >>> interval_of(400), interval_of(78_000)
        (1, 32)
    """
    return max(1, round(total / UPDATES))


def unit_of(pull: float, shape: str, total: int) -> float:
    """The a of a_t = a curve((t + 1) / T), whose sum over the T steps is the pull.

    Example:
        >>> round(unit_of(10.0, "cosine", 20), 3)
        0.952
    """
    steps = min(total, _SUMMED)
    sum_of = math.fsum(curve(shape, (t + 1) / steps) for t in range(steps))
    # of more steps by Euler and Maclaurin: a sum is the steps times the integral, and half the ends
    ends = (curve(shape, 1.0) - curve(shape, 0.0)) / 2
    return pull / (sum_of if steps == total else (sum_of - ends) * (total / steps) + ends)


def hasty(interval: int | str, pull: float, shape: str, total: int) -> list[str]:
    """What to say where so few steps, or updates, share the automatic pull; see `numbers`."""
    strongest = unit_of(pull, shape, total)
    if strongest >= HASTY:
        return [
            f"penalty auto spreads its pull over the run: of {counted(total, 'step')} the "
            f"strongest goes {-math.expm1(-strongest):.0%} of the way to the sparse copy, nearly "
            "a projection. Way out: more steps (a longer training, or a smaller batch size)"
        ]
    if isinstance(interval, str) or interval <= interval_of(total):
        return []
    between = pull / max(total // interval, 1)
    if between < HASTY:
        return []
    return [
        f"between two updates of its sparse copy, {interval} steps apart, penalty auto goes "
        f"{-math.expm1(-between):.0%} of the way to it, nearly a projection. Way out: interval "
        "auto (--interval auto)"
    ]


def numbers(interval: int | None, pull: float | None, shape: str, total: int) -> Tensors:
    """What belongs to a run of that many steps, and what was done of it so far.

    Args:
        interval: K; None follows from the steps.
        pull: the sum of a_t over the run; None where the penalty is a number.
        shape: of a_t over the run, a name of `steppe.core.curves`.
        total: T, steps of the run.
    """
    values: dict[str, float] = {"interval": interval or interval_of(total), "updates": 0}
    if pull is not None:
        values |= {"unit": unit_of(pull, shape, total), "strongest_pull": 0, "pulled": 0}
    return {name: torch.tensor(float(v), dtype=torch.float64) for name, v in values.items()}


def move(context: StepContext, shape: str) -> None:
    """x <- x - (1 - exp(-a_t)) (x - z + u), of the weights that the optimiser has just moved.

    Args:
        context: after the optimiser's step; z, u and the numbers of the run are in its state.
        shape: of a_t over the run.
    """
    run, moved = context.state["run"], [n for n in context.weights if n in context.moved]
    if not moved:
        return
    pull = run["unit"] * curve(shape, (context.step + 1) / context.total)
    share = math.expm1(-float(pull))
    for name in moved:
        x = context.weights[name]
        if torch.finfo(x.dtype).bits >= 32:
            x.add_(apart(context.state, name, x), alpha=share)
        else:
            _move_coarse(context, name, share)
    run["pulled"] += pull
    run["strongest_pull"].copy_(torch.maximum(run["strongest_pull"], pull))


def _move_coarse(context: StepContext, name: str, share: float) -> None:
    """The same for a weight in 16 bits, where a small pull alone would be rounded away.

    What rounding takes from x is kept beside it and counts in the next step (Kahan).
    """
    x = context.weights[name]
    rest = context.state.setdefault("rest", {}).setdefault(name, torch.zeros_like(x))
    exact = x.float() + rest.float()
    exact.add_(apart(context.state, name, exact), alpha=share)
    x.copy_(exact)
    rest.copy_(exact.sub_(x))
