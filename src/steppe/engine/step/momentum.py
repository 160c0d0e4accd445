"""What an optimiser remembers of the gradients of past steps."""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.protocols import Perturb
from steppe.engine.step.optimizers import Optimizers, inner

_BUFFERS = ("momentum_buffer", "exp_avg")


def check_momentum(optimizers: Optimizers, perturb: Perturb) -> None:
    """Look at whether all groups of the optimisers have a momentum, if it is gone along.

    Args:
        optimizers: of the run.
        perturb: the method's.

    Raises:
        SteppeError: one has none, or keeps it where nobody sees it.
    """
    along = [part.name for part in perturb.parts if part.active and part.along == "momentum"]
    for optimizer in optimizers.each() if along else ():
        for group in optimizer.param_groups:
            if not (group.get("momentum") or "betas" in group):
                raise _none(along[0], optimizer, " with momentum 0" * ("momentum" in group))
        around = inner(optimizer)
        if around is not None and around.state is not optimizer.state:
            said = f", whose momentum lies in the {type(around).__name__} that it is built around"
            raise _none(along[0], optimizer, said)


def momentum(optimizers: Optimizers, parameters: list[Tensor], perturb: str) -> list[Tensor | None]:
    """The running sum or mean of each parameter's gradients; None where it begins anew.

    SGD's ``momentum_buffer``, the first moment ``exp_avg`` of Adam and its kin, without the
    correction of its bias: it is one factor for all.

    Args:
        optimizers: of the run.
        parameters: that they hold.
        perturb: name of the perturbation that goes along it, for messages.

    Returns:
        One for each parameter, the optimiser's own tensors.

    Raises:
        SteppeError: an optimiser has made a step with a parameter and remembers nothing of that
            kind.

    Example:
        >>> import torch
        >>> p = torch.nn.Parameter(torch.zeros(2)); p.grad = torch.ones(2)
        >>> optimizer = torch.optim.SGD([p], lr=0.1, momentum=0.9); optimizer.step()
        >>> momentum(Optimizers([optimizer], None), [p], "msam")
        [tensor([1., 1.])]
    """
    owners = optimizers.owners()
    return [_buffer(owners[id(p)], p, perturb, id(p) in optimizers.forgotten) for p in parameters]


def _buffer(optimizer: Optimizer, p: Tensor, perturb: str, forgotten: bool) -> Tensor | None:
    state: dict[str, Any] = optimizer.state.get(p, {})
    for name in _BUFFERS:
        value = state.get(name)
        if isinstance(value, Tensor) and value.shape == p.shape:
            return value.dequantize() if "dequantize" in vars(type(value)) else value
    if state:
        raise _none(perturb, optimizer, f", which remembers {', '.join(map(str, state))}")
    if forgotten:
        raise _none(perturb, optimizer, ", which remembers nothing of a step that it has made")
    return None


def _none(perturb: str, optimizer: Optimizer, said: str) -> SteppeError:
    return SteppeError(
        f"perturb {perturb} goes along the optimizer's momentum",
        got=f"{type(optimizer).__name__}{said}",
        way_out="SGD(..., momentum=0.9), Adam or AdamW; or perturb sam, which needs none",
    )
