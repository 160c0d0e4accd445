"""The gradient passes of one step: at x, and at x + eps."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.amp import GradScaler
from torch.optim import Optimizer

from steppe.core.errors import SteppeError
from steppe.core.norm import global_norm
from steppe.core.protocols import Perturb
from steppe.engine.step.argument_checks import closures_of, outcome
from steppe.engine.step.batchnorm import frozen_statistics

Closure = Callable[[], Tensor | tuple[Tensor, Tensor]]


class Gradients(NamedTuple):
    """What has a gradient after the first pass, in the optimiser's order."""

    params: list[Tensor]
    grads: list[Tensor]
    names: list[str]


class GradientPasses:
    """Runs the closures of a step: micro-batches, loss scaling, exchange between ranks.

    Args:
        model: whose gradients are taken.
        optimizer: clears them.
        params: the optimiser's parameters, with their names.
        scaler: of float16 autocast, or None.
        rank_local: whether each rank perturbs along its own gradient (m-sharpness).
        micro_batches: ``mean`` or ``sum`` of the closures' losses.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        params: Sequence[tuple[str, Tensor]],
        scaler: GradScaler | None,
        rank_local: bool,
        micro_batches: str = "mean",
    ) -> None:
        self._averaged = micro_batches == "mean"
        self.model, self.optimizer, self.scaler = model, optimizer, scaler
        self._params, self._rank_local = list(params), rank_local
        self._backup: list[Tensor] = []

    @property
    def params(self) -> list[Tensor]:
        """The optimiser's parameters that take a gradient."""
        return [p for _, p in self._params]

    @property
    def rank_local(self) -> bool:
        """Whether a first pass that a second one follows stays on its rank."""
        return self._rank_local and hasattr(self.model, "no_sync")

    @property
    def unscale(self) -> float:
        """What a gradient is multiplied with to be that of the loss."""
        return 1.0 / self.scaler.get_scale() if self.scaler else 1.0

    def run(
        self,
        closures: Sequence[Closure],
        *,
        exchange: bool = True,
        see: Callable[[Tensor | None], None] = lambda accuracy: None,
    ) -> Tensor:
        """Gradients of the mean (or sum) of the closures' losses, in ``p.grad``.

        Args:
            closures: micro-batches.
            exchange: whether the ranks share the gradient, once, with the last micro-batch.
            see: is told each micro-batch's accuracy, None where there is none.

        Returns:
            The loss, detached.
        """
        closures_of(closures)
        self.optimizer.zero_grad()
        total: Tensor | None = None
        for i, closure in enumerate(closures):
            quiet = not exchange or i < len(closures) - 1
            with self._no_sync() if quiet else contextlib.nullcontext():
                with torch.enable_grad():
                    loss, accuracy = outcome(closure())
                    if self._averaged:
                        loss = loss / len(closures)
                self._backward(loss)
            total = loss.detach() if total is None else total + loss.detach()
            see(accuracy)
        assert total is not None
        return total

    def _backward(self, loss: Tensor) -> None:
        try:
            (self.scaler.scale(loss) if self.scaler else loss).backward()
        except RuntimeError as error:
            if "second time" not in str(error):
                raise
            raise SteppeError(
                "the closure returns the loss and leaves backward() to the step",
                got="a loss whose graph is gone",
                way_out="take backward() out of the closure",
            ) from error

    def _no_sync(self) -> AbstractContextManager[Any]:
        no_sync = getattr(self.model, "no_sync", None)
        return no_sync() if no_sync is not None else contextlib.nullcontext()

    def gradients(self) -> Gradients:
        """The parameters that have a gradient."""
        present = [(p.detach(), p.grad, n) for n, p in self._params if p.grad is not None]
        assert present, "no parameter has a gradient: does the closure return the model's loss?"
        params, grads, names = zip(*present, strict=True)
        return Gradients(list(params), list(grads), list(names))

    @torch.no_grad()
    def perturbation(self, perturb: Perturb, first: Gradients, local: bool) -> list[Tensor] | None:
        """eps for each parameter; None where the first gradient overflowed.

        Args:
            perturb: says how.
            first: of the pass at x.
            local: whether it is this rank's own.
        """
        grads = first.grads
        if self.scaler:
            grads = list(torch._foreach_mul(grads, self.unscale))
            # the scaler will see the overflow and skip this step; where each rank has its own
            # gradient, all must meet in the second pass to see it
            if not local and not bool(global_norm(grads).isfinite()):
                return None
        return perturb.perturbation(first.params, grads, first.names)

    def run_perturbed(
        self, closures: Sequence[Closure], params: list[Tensor], eps: list[Tensor]
    ) -> None:
        """Gradients at x + eps, with batch-norm statistics frozen; x is restored bit for bit."""
        with torch.no_grad():
            if [b.shape for b in self._backup] != [p.shape for p in params]:
                self._backup = [torch.empty_like(p) for p in params]
            # a copy, because x + eps - eps is not x in floating point
            torch._foreach_copy_(self._backup, params)
            torch._foreach_add_(params, eps)
        try:
            with frozen_statistics(self.model):
                self.run(closures)
        finally:
            with torch.no_grad():
                torch._foreach_copy_(params, self._backup)
