"""The gradient of the loss by the network's outputs, kept from one pass to the next."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.engine.step.foreign_gradients import leaves

_WAY_OUT = "return sparsifier.loss(task_loss, outputs=outputs) from the closure, or perturb sam"


class OutputGradients:
    """Watches which outputs a closure gives to `Sparsifier.loss`.

    With v = dL / d outputs at x, in units of what the closure returned, `pull` makes J^T v at
    other weights: the Jacobian moves, the gradient by the outputs does not.
    """

    def __init__(self) -> None:
        self._watching = False
        self._seen: list[Tensor] = []

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Within it what is given to `see` is remembered."""
        self._watching = True
        try:
            yield
        finally:
            self._watching, self._seen = False, []

    def see(self, outputs: Tensor) -> None:
        """A closure has computed these outputs."""
        if self._watching:
            self._seen.append(outputs)

    def keep(self, loss: Tensor, own: Collection[Tensor], perturb: str) -> list[Tensor]:
        """Before the backward pass of a loss: let the gradient by its outputs be kept.

        Args:
            loss: what the closure made of the outputs.
            own: parameters that are optimised.
            perturb: name of the perturbation that asks, for messages.

        Returns:
            The outputs, which will have the gradient in ``grad``.

        Raises:
            SteppeError: the closure gave none, or the loss does not depend on parameters through
                them alone.
        """
        outputs, self._seen = self._seen, []
        there = [o for o in outputs if o.requires_grad and not o.is_leaf]
        if not there:
            raise SteppeError(
                f"perturb {perturb} takes the gradient of the network's outputs",
                got="outputs that are detached" if outputs else "a closure that gives only a loss",
                way_out=_WAY_OUT,
            )
        ids = {id(p) for p in own}
        past = [p for p in leaves(loss, {o.grad_fn for o in there}) if id(p) in ids]
        if past:
            raise SteppeError(
                f"perturb {perturb} takes the gradient of the network's outputs",
                got=f"a loss that depends on {len(past)} parameters by other ways, such as a "
                "penalty on weights",
                consequence="that part would have no gradient",
                way_out="the optimizer's weight_decay instead of the penalty, all outputs in "
                "sparsifier.loss, or perturb sam",
            )
        for o in there:
            o.retain_grad()
        return there

    def taken(self, outputs: list[Tensor]) -> list[Tensor]:
        """After the backward pass: v of each of the outputs, which let it go."""
        pulls = [torch.zeros_like(o) if o.grad is None else o.grad for o in outputs]
        for o in outputs:
            o.grad = None
        return pulls

    def again(self, pulls: list[Tensor]) -> list[Tensor]:
        """The outputs of the same closure at other weights, of the shapes of ``pulls``."""
        outputs, self._seen = self._seen, []
        there = [o for o in outputs if o.requires_grad and not o.is_leaf]
        if [o.shape for o in there] != [v.shape for v in pulls]:
            raise SteppeError(
                "a closure computes the same outputs again in the second pass",
                got=f"shapes {[tuple(o.shape) for o in there]} after "
                f"{[tuple(v.shape) for v in pulls]}",
                way_out="bind what changes, lambda x=x, y=y: ..., and draw random numbers with "
                "torch",
            )
        return there
