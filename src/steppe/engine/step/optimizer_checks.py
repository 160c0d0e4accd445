"""Optimisers whose steps a sparsifier cannot take, said before any work."""

from __future__ import annotations

import copy
import inspect
from collections import defaultdict
from typing import Any

from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling
from steppe.engine.step.optimizers import Optimizers, holds_weights, inner
from steppe.engine.step.step_size import check_known


def steppable(optimizers: Optimizers, coupling: Coupling) -> None:
    """Look at what the optimisers can do.

    Raises:
        SteppeError: one needs a closure, takes its steps elsewhere, or shares a parameter with
            another; the coupling must know its steps and does not.
    """
    for given in optimizers.given:
        state = getattr(given, "accelerator_state", None)
        kind = str(getattr(state, "distributed_type", "")).rpartition(".")[2]
        if kind in ("DEEPSPEED", "MEGATRON_LM"):
            raise SteppeError(
                "the optimizer must make its steps itself",
                got=f"one of {kind}, whose engine makes them",
                way_out="accelerate with DDP or FSDP2",
            )
        if hasattr(given, "fused_backward"):
            raise SteppeError(
                "the optimizer must make its steps itself",
                got=f"{type(given).__name__}, which makes them within the backward pass",
                way_out="SGD or AdamW",
            )
    for optimizer in optimizers.each():
        if _needs_closure(optimizer):
            raise SteppeError(
                "the optimizer must make a step from gradients alone",
                got=f"{type(optimizer).__name__}, whose step calls a closure by itself",
                consequence="it would evaluate the loss behind the back of the sparsifier",
                way_out="SGD, AdamW or another that needs none; instead of a SAM wrapper its base "
                "optimizer and a method that perturbs, such as safe(rho=0.05) or dense(rho=0.05)",
            )
        if coupling.needs_step_sizes:
            check_known(optimizer)
        if coupling.moves_weights and holds_weights(optimizer):
            raise SteppeError(
                f"an automatic penalty of {coupling.name} moves the weights beside the optimizer",
                got=f"{type(optimizer).__name__}, {_what_it_holds(optimizer)}",
                consequence="it would undo a part of the pull",
                way_out="a number, which goes through the optimizer: penalty=1e-3, interval=32",
            )
        if coupling.shifts_by and holds_weights(optimizer):
            raise SteppeError(
                f"coupling {coupling.name} shifts biases beside the optimizer",
                got=f"{type(optimizer).__name__}, {_what_it_holds(optimizer)}",
                consequence="it would undo the shift",
                way_out="SGD or AdamW, or shift false",
            )
    _disjoint(optimizers)


def _what_it_holds(optimizer: Optimizer) -> str:
    around = inner(optimizer)
    if around is None:
        return "which holds other weights than the model's"
    return f"which is built around {type(around).__name__} and may hold other weights"


def _disjoint(optimizers: Optimizers) -> None:
    params = [id(p) for p in optimizers.params]
    if len(set(params)) < len(params):
        raise SteppeError(
            "a parameter is in one optimizer only",
            got=f"{len(params) - len(set(params))} that are in two",
            consequence="they would make two steps at once",
            way_out="divide the parameters between the optimizers",
        )


def _needs_closure(optimizer: Optimizer) -> bool:
    """By what its step asks for, or by its two steps (SAM), or by what it says of none."""
    if all(callable(getattr(optimizer, name, None)) for name in ("first_step", "second_step")):
        return True
    needed = inspect.signature(type(optimizer).step).parameters
    if any(
        p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in [*needed.values()][1:]
    ):
        return True
    if type(optimizer).__module__.startswith("torch."):
        return False
    return _refuses_none(optimizer)


def _refuses_none(optimizer: Optimizer) -> bool:
    """Whether a copy without parameters complains that its step got no closure."""
    if inner(optimizer) is not None:
        return False  # it would step the one inside
    alone: Any = copy.copy(optimizer)
    alone.param_groups = [group | {"params": []} for group in optimizer.param_groups]
    alone.state = defaultdict(dict)
    try:
        type(optimizer).step(alone)
    except Exception as error:
        return "closure" in f"{type(error).__name__} {error}".lower()
    return False
