"""Neurons: which entries of a model's parameters belong to one output channel, and its worth."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False, kw_only=True)
class Neurons:
    """The neurons of a network that can be pruned, numbered through, at one step.

    A neuron is an output channel with its bias and the scale and shift of the norm behind it;
    where channels of several layers are coupled, all of them are one neuron.

    Args:
        members: parameter name -> the number of the neuron that each entry belongs to, -1 where it
            is none's; long, broadcasts over the parameter. Parameters of no neuron are left out.
        sizes: how many neurons each layer, or group of coupled channels, has; in their order.
        scores: ``[neurons]``, not negative: how much each matters.
        alive: ``[neurons]`` booleans: whether it has not been removed.

    Example:
        >>> rows = Neurons.rows_of([torch.tensor([[3.0, 4.0], [0.0, 0.0]])], ["weight"])
        >>> rows.scores, rows.alive
        (tensor([5., 0.]), tensor([ True, False]))
    """

    members: Mapping[str, Tensor]
    sizes: tuple[int, ...]
    scores: Tensor
    alive: Tensor

    @classmethod
    def rows_of(cls, weights: Sequence[Tensor], names: Sequence[str]) -> Neurons:
        """The rows of every matrix, each with its bias, scored by their L2 norms.

        For tensors of which nothing else is known; a run knows what it prunes.

        Args:
            weights: parameters, outputs first.
            names: theirs; a bias lies beside its weight by name.
        """
        members: dict[str, Tensor] = {}
        scores: list[Tensor] = []
        begun = 0
        vectors = {n: w for n, w in zip(names, weights, strict=True) if w.ndim == 1}
        for name, w in zip(names, weights, strict=True):
            if w.ndim < 2:
                continue
            rows = torch.arange(begun, begun + len(w), device=w.device)
            members[name] = rows.view(-1, *[1] * (w.ndim - 1))
            bias = vectors.get(beside(name, "bias"))
            if bias is not None and len(bias) == len(w):
                members[beside(name, "bias")] = rows.to(bias.device)
            scores.append(torch.linalg.vector_norm(w.flatten(1), dim=1))
            begun += len(w)
        every = joined(scores)
        return cls(members=members, sizes=tuple(map(len, scores)), scores=every, alive=every > 0)


def beside(name: str, other: str) -> str:
    """The name of another parameter of the same layer.

    Example:
        >>> beside("a.conv.weight", "bias"), beside("rnn.weight_ih_l0", "bias")
        ('a.conv.bias', 'rnn.bias_ih_l0')
    """
    module, dot, own = name.rpartition(".")
    return f"{module}{dot}{own.replace('weight', other, 1)}"


def joined(scores: Sequence[Tensor]) -> Tensor:
    """One vector of several, in float32 at least, on the device of the first."""
    if not scores:
        return torch.zeros(0)
    wide = torch.promote_types(scores[0].dtype, torch.float32)
    return torch.cat([s.to(scores[0].device, wide) for s in scores])
