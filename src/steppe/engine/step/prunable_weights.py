"""Which tensors of a model a method prunes, and what is trained in their place."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.core.notes import note
from steppe.core.protocols import Coupling, Tensors
from steppe.core.prunable import LeftDense, dense_note, parameters_of
from steppe.core.split import part_of
from steppe.engine.step.argument_checks import optimised, single
from steppe.engine.step.channel_selector import coupled
from steppe.engine.step.optimizers import Optimizers
from steppe.engine.step.parametrization import ParametrizedWeights
from steppe.engine.step.selected_layers import selected_layers
from steppe.engine.step.trained_weights import trained_layers
from steppe.method import Method


class PrunableWeights:
    """The weights that a method prunes.

    Args:
        model: that they belong to.
        optimizers: that move them.
        method: its structure and coupling decide.
        coupling: the method's.
        include, exclude: shell patterns, see `steppe.prunable`.
        groups: coupled channels, whose tensors take the place of the layers; all of them trained.
        known: statistics of the score that need not be gathered.

    Raises:
        SteppeError: a pattern matches nothing, a weight is not the optimiser's, ...
    """

    def __init__(
        self,
        model: nn.Module,
        optimizers: Optimizers,
        method: Method,
        coupling: Coupling,
        include: Sequence[str],
        exclude: Sequence[str],
        groups: Sequence[Group],
        known: Collection[str] = (),
    ) -> None:
        self.notes: list[str] = []
        self.frozen: dict[str, nn.Parameter] = {}
        """What is left out because it was frozen."""
        if groups:
            self.layers, weights = coupled(unwrap(model), groups)
            dense: list[LeftDense] = []
        else:
            chosen, self.notes = selected_layers(model, method, include, exclude, known)
            self.layers, weights, dense = chosen.layers, chosen.weights, chosen.dense
        self.model_parameters = parameters_of(unwrap(model))
        """How many parameters the model has, with those that are never pruned."""
        if coupling.prunes:  # else nothing here is ever touched
            before = self.layers
            self.layers, notes = trained_layers(before, weights)
            self.notes += notes
            left = {x.name for x in before} - {x.name for x in self.layers}
            self.frozen = {n: weights[n] for n in left if not weights[n].requires_grad}
            optimised({x.name: weights[x.name] for x in self.layers}, optimizers.params)
            numel = sum(x.numel for x in self.layers)
            self.notes += dense_note(dense, numel, self.model_parameters)
        self.parameters: dict[str, nn.Parameter] = {x.name: weights[x.name] for x in self.layers}
        """Name -> the weight's parameter."""
        self.groups = list(groups)
        """The coupled channels that are pruned."""
        self._parametrized: ParametrizedWeights | None = None
        if coupling.parametrization is not None:
            single(coupling.name, groups)
            self._parametrized = ParametrizedWeights(
                model, optimizers, coupling.parametrization, coupling.name, self.parameters
            )
            self.notes += self._parametrized.notes
        self.quiet: dict[str, int] = {}
        """Name -> for how many steps a weight has had no gradient; those that have one are not in.
        """
        self._places = self._whereabouts()
        self._pulls = type(coupling).add_gradient is not Coupling.add_gradient

    @property
    def parametrized(self) -> bool:
        """Whether other tensors are trained in the weights' place."""
        return self._parametrized is not None

    @property
    def trained(self) -> dict[str, nn.Parameter]:
        """Name -> the parameters that the coupling acts on: the weights, or their parts."""
        return self.parameters if self._parametrized is None else self._parametrized.parts

    @property
    def present(self) -> dict[str, nn.Parameter]:
        """Those of `trained` that had a gradient when `gradients` looked last.

        Some optimisers drop the gradients in their step.
        """
        return {name: p for name, p in self.trained.items() if name not in self.quiet}

    @property
    def tensors(self) -> Tensors:
        """Name -> what the coupling acts on, detached."""
        return {name: part_of(p.detach()) for name, p in self.trained.items()}

    @property
    def weights(self) -> Tensors:
        """Name -> the weights as the network sees them; new tensors where they are made."""
        return self.tensors if self._parametrized is None else self._parametrized.joined()

    def home(self, tensors: Tensors) -> Tensors:
        """Copies beside the weight of that name; what is a mere number stays where it is."""
        there = {n.partition(":")[0]: p.device for n, p in self.trained.items()}
        there |= {n: p.device for n, p in self.trained.items()}
        device = next(iter(there.values()))
        return {
            n: (t.to(there.get(n, device)) if t.ndim else t).clone() for n, t in tensors.items()
        }

    def follow(self, tensors: Tensors) -> Tensors:
        """`home`, in the data type that the weights have now."""
        weights = self.trained
        return {
            n: t.to(weights[n].dtype) if n in weights and t.is_floating_point() else t
            for n, t in self.home(tensors).items()
        }

    def _whereabouts(self) -> list[tuple[torch.device, torch.dtype]]:
        return [(p.device, p.dtype) for p in self.trained.values()]

    def moved(self) -> bool:
        """Whether the weights have another device or data type than when this was last asked."""
        before, self._places = self._places, self._whereabouts()
        return before != self._places

    def check(self, model: nn.Module) -> None:
        """Look at what may have changed since the last step.

        Args:
            model: not wrapped.

        Raises:
            SteppeError: a pruned weight is no longer the model's.
        """
        present = {id(p) for p in model.parameters()}
        for name, p in self.trained.items():
            if id(p) not in present:
                raise SteppeError(
                    "the weights that are pruned stay the model's own parameters",
                    got=f"another tensor in the place of {name}",
                    way_out="a new sparsifier after the model was changed; load weights with "
                    "model.load_state_dict(state), without assign=True",
                )
        for name in [n for n, p in self.frozen.items() if p.requires_grad]:
            del self.frozen[name]
            note(
                f"{name} was frozen when sparsify was called and is trained now: it stays dense; "
                "a new sparsifier prunes it too",
                stacklevel=4,
            )

    def gradients(self) -> Tensors:
        """Name -> the gradient to which the coupling adds.

        A weight that took no part in the loss has none, and gets none: what is added to its zeros
        is read by nobody, as the optimiser leaves it alone.

        Raises:
            SteppeError: a gradient is sparse and the coupling would add a dense one.
        """
        for name, p in self.trained.items():
            if p.grad is None:
                self.quiet[name] = self.quiet.get(name, 0) + 1
            else:
                self.quiet.pop(name, None)
        if not self._pulls:  # nobody adds: no zeros for a frozen backbone, or unused experts
            return {n: part_of(p.grad) for n, p in self.trained.items() if p.grad is not None}
        grads = {
            n: part_of(torch.zeros_like(p) if p.grad is None else p.grad)
            for n, p in self.trained.items()
        }
        for part, grad in grads.items():
            name = part.partition(":")[0]
            if grad.layout != torch.strided:
                raise SteppeError(
                    "the coupling adds to the gradient of every weight that it prunes",
                    got=f"a sparse gradient of {name}",
                    way_out=f"sparse=False there, exclude=[{name!r}], or a method that only masks, "
                    "such as gmp",
                )
        return grads

    def fold(self) -> None:
        """Plain weights again, in the model and in the optimiser."""
        if self._parametrized is not None:
            self.parameters, self._parametrized = self._parametrized.fold(), None
