"""Weights are put together from trained parts, and folded back at the end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.optim import Optimizer

from steppe.core.derived import OfSparsify
from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.protocols import Tensors, WeightParametrization
from steppe.core.text import counted
from steppe.engine.step.named_groups import add_like, fill, names_of
from steppe.engine.step.optimizers import Optimizers, scheduled
from steppe.engine.step.sparse_copy import unparametrize


class _Join(OfSparsify):
    """What ``torch.nn.utils.parametrize`` calls."""

    def __init__(self, parametrization: WeightParametrization) -> None:
        super().__init__()
        self.parametrization = parametrization

    def forward(self, *parts: Tensor) -> Tensor:
        return self.parametrization.join(*parts)

    def right_inverse(self, weight: Tensor) -> tuple[Tensor, ...]:
        return self.parametrization.split(weight)


class ParametrizedWeights:
    """The parts of a model's weights, in the model and in its optimisers.

    Args:
        model: not yet wrapped (DistributedDataParallel, compile): they must see the parts.
        optimizers: over the weights; each is replaced by its parts, in a group of their own with
            the same options if the coupling does not want the group's weight decay.
        parametrization: says how.
        name: of the coupling that it belongs to, for messages.
        weights: name -> parameter.

    Raises:
        SteppeError: the model is wrapped, or a weight is tied to another or already a function.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        parametrization: WeightParametrization,
        name: str,
        weights: Mapping[str, nn.Parameter],
    ) -> None:
        self._model, self._optimizers, self.parametrization = model, optimizers, parametrization
        self._name = name
        self.notes: list[str] = []
        _check(model, weights, name)
        self.parts: dict[str, nn.Parameter] = {}
        self._layers = list(weights)
        self._names: dict[str, str] = {}  # layer -> what its optimiser calls it
        for layer in self._layers:
            module, tensor = self._where(layer)
            parametrize.register_parametrization(module, tensor, _Join(parametrization))
            registered: Any = module.parametrizations
            parts = list(registered[tensor].parameters())
            self.parts |= dict(zip(parametrization.named(layer), parts, strict=True))
        for optimizer in optimizers.each():
            self._swap(optimizer, weights)

    def _where(self, layer: str) -> tuple[nn.Module, str]:
        path, _, tensor = layer.rpartition(".")
        return self._model.get_submodule(path), tensor

    def _swap(self, optimizer: Optimizer, weights: Mapping[str, nn.Parameter]) -> None:
        """An optimiser's weights give way to their parts."""
        layers = {id(p): layer for layer, p in weights.items()}
        names = names_of(optimizer.param_groups)
        self._names |= {layers[i]: name for i, name in names.items() if i in layers}
        for layer, name in self._names.items():
            for part in self.parametrization.named(layer):
                names[id(self.parts[part])] = name + part.removeprefix(layer)
        for group in list(optimizer.param_groups):
            own = [layers[id(p)] for p in group["params"] if id(p) in layers]
            new = [self.parts[n] for layer in own for n in self.parametrization.named(layer)]
            rest = [p for p in group["params"] if id(p) not in layers]
            for layer in own:
                optimizer.state.pop(weights[layer], None)
            decay = group.get("weight_decay", 0.0)
            if not new or self.parametrization.decays or not decay:
                fill(group, rest + new, names)
                continue
            _unscheduled(optimizer, self._name)
            fill(group, rest, names)
            add_like(optimizer, group, {"weight_decay": 0.0}, new, names)
            self.notes.append(
                f"the optimizer's weight decay {decay:g} is off for {counted(len(own), 'tensor')}, "
                f"whose parts {' and '.join(self.parametrization.parts)} coupling {self._name} "
                "decays"
            )
        empty = [g for g in optimizer.param_groups if not g["params"]]
        for group in empty:
            optimizer.param_groups.remove(group)

    @torch.no_grad()
    def joined(self) -> Tensors:
        """Name -> the weights that the parts stand for now; new tensors."""
        return self.parametrization.join_all({n: p.detach() for n, p in self.parts.items()})

    @torch.no_grad()
    def fold(self) -> dict[str, nn.Parameter]:
        """Plain weights again, in the model and in the optimiser.

        Returns:
            name -> parameter.
        """
        weights: dict[str, nn.Parameter] = {}
        gone = {id(p) for p in self.parts.values()}
        first = {id(self.parts[self.parametrization.named(n)[0]]): n for n in self._layers}
        for layer in self._layers:
            module, tensor = self._where(layer)
            weights[layer] = unparametrize(module, tensor)
        names = names_of(self._optimizers.groups)
        names |= {id(weights[layer]): name for layer, name in self._names.items()}
        for group in self._optimizers.groups:
            optimised: Sequence[nn.Parameter] = group["params"]
            own = [
                weights[first[id(p)]] if id(p) in first else p
                for p in optimised
                if id(p) in first or id(p) not in gone
            ]
            fill(group, own, names)
        for optimizer in self._optimizers.each():
            for part in self.parts.values():
                optimizer.state.pop(part, None)
        return weights


def _unscheduled(optimizer: Optimizer, name: str) -> None:
    """A learning-rate scheduler would not see a parameter group that is added behind its back."""
    if scheduled(optimizer):
        raise SteppeError(
            f"coupling {name} gives the parts of the weights a parameter group of their own",
            got="an optimizer that has a learning-rate scheduler already",
            consequence="the new group's learning rate would stay constant",
            way_out="make the scheduler after sparsify, or give the group weight_decay 0",
        )


def _check(model: nn.Module, weights: Mapping[str, nn.Parameter], name: str) -> None:
    if unwrap(model) is not model:
        raise SteppeError(
            f"coupling {name} changes the model's parameters before it is wrapped",
            got=type(model).__name__,
            way_out="sparsify the plain model first, wrap it, and set sparsifier.model to that",
        )
    owners: dict[int, list[str]] = {}
    for own, p in model.named_parameters(remove_duplicate=False):
        owners.setdefault(id(p), []).append(own)
    for layer, p in weights.items():
        if owners.get(id(p)) != [layer]:
            raise SteppeError(
                f"coupling {name} needs weights that belong to one layer alone",
                got=f"{layer}, which is tied to or made from {', '.join(owners.get(id(p), []))}",
                way_out=f"exclude {layer}",
            )
