"""Which weights nothing has moved, so that their multipliers rest."""

from __future__ import annotations

import torch

from steppe.core.step_context import StepContext


def count(context: StepContext) -> None:
    """Count in the state for how many steps a weight has not moved; those that just did go.

    Args:
        context: after the optimiser's step.
    """
    before = context.state.get("still", {})
    names = [n for n in context.weights if n not in context.moved]
    if names:
        context.state["still"] = {n: before.get(n, torch.tensor(0)) + 1 for n in names}
    else:  # as in most runs, whose state has no such entry
        context.state.pop("still", None)


def resting(context: StepContext, steps: int) -> set[str]:
    """The weights that did not move in the last steps, or had no gradient.

    A multiplier of what was not moved since the last update would grow without end.

    Args:
        context: after `count`.
        steps: since the last update.
    """
    still = {n for n, t in context.state.get("still", {}).items() if int(t) >= steps}
    return still | {n for n, quiet in context.quiet.items() if quiet >= steps}
