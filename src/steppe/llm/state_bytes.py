"""What optimiser and coupling keep of each weight, counted on a real state."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.serialization import parts_inside
from steppe.engine.optim import optimizers
from steppe.engine.step.sparsify import sparsify
from steppe.method import Method

_SIDE = 256  # of the square matrix on which bytes are counted


def bytes_of_a_weight(
    method: Method, optimizer: str, options: dict[str, Any]
) -> tuple[float, float]:
    """What the optimiser and the coupling keep of each weight, counted on a small matrix.

    Args:
        method: whose coupling is looked at.
        optimizer: of ``torch.optim`` or ``adam8bit``, by name.
        options: its further arguments.

    Example:
        >>> import steppe
        >>> bytes_of_a_weight(steppe.methods.gmp(sparsity=0.5), "adam", {})
        (8.0, 1.0)
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = nn.Linear(_SIDE, _SIDE, bias=False)
    made, _ = optimizers(optimizer, model.parameters(), 1e-3, **options)
    one = {"name": "uniform", "sparsity": method.sparsity}  # of one layer all budgets say so
    plain = method.replace(objective="task", budget=one, perturb="none")
    sparsifier = sparsify(model, made, plain, 100, steps_per_epoch=10)
    inputs, right = torch.eye(_SIDE), torch.zeros(())
    watches = sparsifier.coupling.watches == "accuracy"

    def closure() -> Tensor | tuple[Tensor, Tensor]:
        loss = model(inputs).square().mean()
        return (loss, right) if watches else loss

    with torch.random.fork_rng(devices=[]):
        sparsifier.step(closure)
    state = sparsifier.state_dict()
    return _bytes(state["optimizer"]) / _SIDE**2, _bytes(state["coupling"]) / _SIDE**2


def _bytes(tree: Any) -> int:
    """Of the tensors in a state that have an entry for each weight; single numbers are none."""
    if isinstance(tree, Tensor):
        inner = parts_inside(tree)
        return _bytes(inner) if inner else tree.nbytes * (tree.numel() > 1)
    if isinstance(tree, dict):
        return sum(map(_bytes, tree.values()))
    return sum(map(_bytes, tree)) if isinstance(tree, list | tuple) else 0
