"""The public face of the step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from torch import nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from steppe.core.cost import Cost
from steppe.core.group import Group
from steppe.core.search import Trial
from steppe.engine.sparsifier import Sparsifier
from steppe.method import Method


def sparsify(
    model: nn.Module,
    optimizer: Optimizer,
    method: Method,
    total_steps: int,
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    clip_grad_norm: float | None = None,
    scaler: GradScaler | None = None,
    sync: Literal["global", "local"] = "global",
    steps_per_epoch: int | None = None,
    groups: Sequence[Group] = (),
    cost: Cost | None = None,
    trial: Trial | None = None,
) -> Sparsifier:
    """Prune while training, in your own loop: two lines change.

    Args:
        model: any module, also inside DistributedDataParallel.
        optimizer: any torch optimiser over its parameters.
        method: e.g. ``steppe.methods.safe(sparsity=0.95)``.
        total_steps: optimiser steps of the whole run; schedules stretch over it.
        include: shell patterns of weights or modules to prune; all prunable ones if empty.
        exclude: shell patterns of what stays dense.
        clip_grad_norm: largest L2 norm of the loss gradient, clipped before the coupling's
            gradient is added.
        scaler: a GradScaler for float16 autocast; the sparsifier steps and updates it.
        sync: ``global``: the perturbation uses the gradient averaged over the ranks;
            ``local``: each rank its own (m-sharpness), which saves one exchange.
        steps_per_epoch: for methods that act when an epoch ends (pilot).
        groups: coupled channels (``steppe.channel_groups``), which go in all layers at once; for
            structure ``channel``.
        cost: what sparsity counts where there are groups; their channels if none is given.
        trial: for budgets that try channels out, see
            `steppe.engine.candidate_evaluation.candidate_evaluator`.

    Returns:
        The sparsifier; call ``step(closure)`` in the loop and ``finish()`` after it.

    Raises:
        SteppeError: a pattern matches nothing, a layer cannot have the structure, ...

    Example:
        >>> import steppe, torch
        >>> model = nn.Linear(4, 2); opt = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> s = sparsify(model, opt, steppe.methods.magnitude(sparsity=0.5), total_steps=1)
        >>> _ = s.step(lambda: model(torch.ones(3, 4)).square().mean())
        >>> s.finish().sparsity
        0.5
    """
    return Sparsifier(
        model,
        optimizer,
        method,
        total_steps,
        include=include,
        exclude=exclude,
        clip_grad_norm=clip_grad_norm,
        scaler=scaler,
        sync=sync,
        steps_per_epoch=steps_per_epoch,
        groups=groups,
        cost=cost,
        trial=trial,
    )
