"""Which tensors of a model a method prunes, and what is trained in their place."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn
from torch.optim import Optimizer

from steppe.core.group import Group
from steppe.core.layer import Layer, prunable, unwrap
from steppe.core.protocols import Coupling, Tensors
from steppe.engine.step.argument_checks import optimised, single
from steppe.engine.step.channel_selector import coupled
from steppe.engine.step.parametrization import ParametrizedWeights
from steppe.method import Method


class PrunableWeights:
    """The weights that a method prunes.

    Args:
        model: that they belong to.
        optimizer: that moves them.
        method: its structure and coupling decide.
        coupling: the method's.
        include, exclude: shell patterns, see `steppe.prunable`.
        groups: coupled channels, whose tensors take the place of the layers.

    Raises:
        SteppeError: a pattern matches nothing, a weight is not the optimiser's, ...
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Optimizer,
        method: Method,
        coupling: Coupling,
        include: Sequence[str],
        exclude: Sequence[str],
        groups: Sequence[Group],
    ) -> None:
        self.notes: list[str] = []
        if groups:
            self.layers, weights = coupled(unwrap(model), groups)
        else:
            self.layers, weights = prunable(model, include, exclude)
            if method.structure.whole_outputs and method.sparsity > 0:
                self.layers = self._without_output(model, include)
        optimised(weights, [p for group in optimizer.param_groups for p in group["params"]])
        self.parameters: dict[str, nn.Parameter] = {x.name: weights[x.name] for x in self.layers}
        """Name -> the weight's parameter."""
        self._parametrized: ParametrizedWeights | None = None
        if coupling.parametrization is not None:
            single(coupling.name, groups)
            self._parametrized = ParametrizedWeights(
                model, optimizer, coupling.parametrization, coupling.name, self.parameters
            )
            self.notes += self._parametrized.notes

    def _without_output(self, model: nn.Module, include: Sequence[str]) -> list[Layer]:
        model = unwrap(model)
        has_head = getattr(model, "get_output_embeddings", lambda: None)() is not None
        if include or has_head or len(self.layers) == 1:
            return self.layers
        order = {id(p): i for i, p in enumerate(model.parameters())}
        _, weights = prunable(model)
        last = max(weights, key=lambda name: order[id(weights[name])])
        kept = [layer for layer in self.layers if layer.name != last]
        if len(kept) < len(self.layers):
            self.notes.append(
                f"the output layer {last} stays dense: its channels are the model's outputs"
            )
        return kept

    @property
    def parametrized(self) -> bool:
        """Whether other tensors are trained in the weights' place."""
        return self._parametrized is not None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> the parameters that the coupling acts on: the weights, or their parts."""
        return self.parameters if self._parametrized is None else self._parametrized.parts

    @property
    def tensors(self) -> Tensors:
        """Name -> what the coupling acts on, detached."""
        return {name: p.detach() for name, p in self.trained.items()}

    @property
    def weights(self) -> Tensors:
        """Name -> the weights as the network sees them; new tensors where they are made."""
        return self.tensors if self._parametrized is None else self._parametrized.joined()

    def home(self, tensors: Tensors) -> Tensors:
        """Copies beside the weight of that name; what is a mere number stays where it is."""
        device = next(iter(self.parameters.values())).device
        there = {n: self.parameters[n].device if n in self.parameters else device for n in tensors}
        return {n: (t.to(there[n]) if t.ndim else t).clone() for n, t in tensors.items()}

    def fold(self) -> None:
        """Plain weights again, in the model and in the optimiser."""
        if self._parametrized is not None:
            self.parameters, self._parametrized = self._parametrized.fold(), None
