"""Zeros of a pruned model, as they stay to the last bit while it is trained further."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from steppe.core.split import is_split, like, own_rows, part_of
from steppe.engine.mask_keeper import MaskKeeper


def masks_of(named: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Name -> mask (True = not zero) of every matrix with zeros that is trained, whoever made them.

    Example:
        >>> matrix, vector = torch.tensor([[0.0, 2.0]]), torch.zeros(1)
        >>> masks_of({"a": nn.Parameter(matrix), "b": nn.Parameter(vector)})
        {'a': tensor([[False,  True]])}
    """
    matrices = {n: p for n, p in named.items() if p.ndim > 1 and p.requires_grad}
    return {n: p.detach() != 0 for n, p in matrices.items() if bool((p == 0).any())}


class Signs:
    """Where a model has zeros of negative sign, which training would make positive.

    Args:
        module: a model, or a part of it, whole.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> _ = nn.init.constant_(layer.weight, -0.0)
        >>> signs = Signs(layer)
        >>> _ = nn.init.constant_(layer.weight, 0.0)
        >>> signs.restore(layer); layer.weight.item()
        -0.0
    """

    def __init__(self, module: nn.Module) -> None:
        found = {
            n: torch.signbit(p.detach()) & (p.detach() == 0)
            for n, p in module.named_parameters()
            if p.ndim > 1 and p.is_floating_point()
        }
        self._negative = {n: negative for n, negative in found.items() if bool(negative.any())}

    @torch.no_grad()
    def restore(self, module: nn.Module) -> None:
        """Give the zeros their signs again, in each process those of its part."""
        named = dict(module.named_parameters())
        for name, negative in self._negative.items():
            own = own_rows(negative, named[name]) if is_split(named[name]) else negative
            part = part_of(named[name])
            part.masked_fill_(own.to(part.device), -0.0)


class KeptZeros:
    """The zeros of a whole model, found before it is trained or split.

    Args:
        model: whole, with what is trained requiring a gradient.
    """

    def __init__(self, model: nn.Module) -> None:
        self._masks, self._signs = masks_of(dict(model.named_parameters())), Signs(model)

    def hold(self, model: nn.Module, optimizers: list[torch.optim.Optimizer]) -> None:
        """Keep them in every step of the optimisers; the model may be split now."""
        if not self._masks:
            return
        named = dict(model.named_parameters())
        masks = {}
        for name, mask in self._masks.items():
            own = own_rows(mask, named[name]) if is_split(named[name]) else mask
            masks[name] = like(own.to(named[name].device), named[name])
        keeper = MaskKeeper(model, masks)
        for optimizer in optimizers:
            keeper.wrap(optimizer)

    def settle(self, model: nn.Module) -> None:
        """The signs as they were."""
        self._signs.restore(model)
