"""Gradients of what the sparsifier's optimisers do not hold: as after one pass."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from steppe.core.layer import unwrap


class ForeignGradients:
    """Lets a second pass add nothing to the gradients of others.

    Others are parameters of the model that only an optimiser of the user's holds, and tensors
    outside of it on which the loss depends: parameters of the loss itself, inputs. They end with
    the gradient at x, added once to what was there, as after a plain loop's pass.

    Args:
        model: whose parameters are looked at.
        own: the parameters that the sparsifier's optimisers hold.
    """

    def __init__(self, model: nn.Module, own: Sequence[Tensor]) -> None:
        self._own = {id(p) for p in own}
        self._model = model
        self._copies = unwrap(model) is not model  # its gradients may be views that are reused
        self._before: dict[int, tuple[Tensor, Tensor | None]] = {}

    @contextmanager
    def kept(self) -> Iterator[ForeignGradients]:
        """Within it foreign gradients are set aside; after it they are as before."""
        for p in self._model.parameters():
            self._set_aside(p)
        try:
            yield self
        finally:
            for tensor, grad in self._before.values():
                tensor.grad = grad

    def spare(self, loss: Tensor) -> None:
        """Set aside what else the loss would add to."""
        for leaf in leaves(loss):
            self._set_aside(leaf)

    def _set_aside(self, tensor: Tensor) -> None:
        if id(tensor) in self._own or id(tensor) in self._before or not tensor.requires_grad:
            return
        grad = tensor.grad
        if self._copies and grad is not None:
            grad = grad.clone()
        self._before[id(tensor)] = (tensor, grad)
        tensor.grad = None


def leaves(loss: Tensor, short_of: Collection[Any] = ()) -> list[Tensor]:
    """The tensors to whose ``grad`` a backward pass would add.

    Args:
        loss: where it begins.
        short_of: nodes of the graph at which it ends.

    Example:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> leaves((x * 2).sum())[0] is x
        True
    """
    if loss.grad_fn is None:
        return [loss]
    nodes: list[Any] = [] if loss.grad_fn in short_of else [loss.grad_fn]
    seen, there = set(nodes), []
    while nodes:
        node = nodes.pop()
        if type(node).__name__ == "AccumulateGrad":
            there.append(node.variable)
        fresh = {n for n, _ in node.next_functions if n is not None and n not in short_of} - seen
        seen |= fresh
        nodes += fresh
    return there
