"""Couplings whose weights are a function of other tensors, which are trained in their place."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import Coupling, NeuronPerturb, Tensors, WeightParametrization
from steppe.core.step_context import StepContext

if TYPE_CHECKING:
    from steppe.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Parametrized(Coupling):
    """x = join(parts): the optimiser moves the parts, the network sees x.

    The engine registers `join` with ``torch.nn.utils.parametrize`` on every prunable weight and
    folds it away at the end. The ``weights`` and ``grads`` of every hook are then those of the
    parts, named as by `named`; masks stay those of the weights. What is cut is zero in every part
    and stays so.
    """

    parts: ClassVar[tuple[str, ...]]
    """What the parts of a weight are called."""
    decays: ClassVar[bool] = True
    """Whether the optimiser's own weight decay acts on the parts."""
    thresholds: ClassVar[tuple[str, ...]] = ()
    """Which of the parts are learned beside the weight, not in its place."""

    @property
    def parametrization(self) -> WeightParametrization:
        return self

    def split(self, weight: Tensor) -> tuple[Tensor, ...]:
        """The parts that a weight begins with; `join` gives the weight back, if it can."""
        raise NotImplementedError

    def join(self, *parts: Tensor) -> Tensor:
        """The weight that parts stand for, differentiable."""
        raise NotImplementedError

    def named(self, layer: str) -> tuple[str, ...]:
        """The names of a weight's parts, ``conv1.weight:m`` for example."""
        return tuple(f"{layer}:{part}" for part in self.parts)

    def split_all(self, weights: Tensors) -> Tensors:
        """Weights by name -> their parts by name."""
        return {
            name: part
            for layer, weight in weights.items()
            for name, part in zip(self.named(layer), self.split(weight), strict=True)
        }

    def join_all(self, parts: Tensors) -> Tensors:
        """The inverse of `split_all`."""
        first = f":{self.parts[0]}"
        layers = [name.removesuffix(first) for name in parts if name.endswith(first)]
        return {layer: self.join(*(parts[n] for n in self.named(layer))) for layer in layers}

    def mask_all(self, parts: Tensors, masks: Tensors) -> None:
        """Make masked entries of every part of a weight's shape zero, in place."""
        for name, mask in self._shaped(parts, masks).items():
            parts[name].masked_fill_(~mask, 0)

    def _shaped(self, parts: Tensors, masks: Tensors) -> Tensors:
        """The masks of weights as those of their parts; a part of another shape has none."""
        return {
            name: mask
            for layer, mask in masks.items()
            for name in self.named(layer)
            if parts[name].shape == mask.shape
        }

    def init(self, context: StepContext) -> dict[str, Tensors]:
        weights, project = context.weights, context.project
        if not context.sparsity:
            return {}  # no mask is held before anything is cut
        masks = project(self.join_all(weights), context.sparsity)
        self.mask_all(weights, masks)
        return {"mask": masks}

    def after_step(self, context: StepContext) -> None:
        weights, state, project = context.weights, context.state, context.project
        if context.due and not context.last:  # the last cut is finish's, and told
            earlier = state.get("mask")
            state["mask"] = project(self.join_all(weights), context.sparsity, within=earlier)
        self.mask_all(weights, state.get("mask", {}))

    def restarted(self, context: StepContext) -> None:
        weights, state = context.weights, context.state
        self.mask_all(weights, state["mask"])

    def alive(self, weights: Tensors, state: Mapping[str, Tensors]) -> Tensors:
        return self._shaped(weights, state.get("mask", {}))

    def finish(self, context: StepContext) -> Tensors:
        weights, state, project = context.weights, context.state, context.project
        masks = project(self.join_all(weights), context.sparsity, within=state.get("mask"))
        self.mask_all(weights, masks)
        return masks

    def fits(self, method: Method) -> None:
        told = [p for p in method.perturb.parts if isinstance(p, NeuronPerturb)]
        scores = [("score", method.score, ""), *(("psi", p.psi, " of neurons") for p in told)]
        for option, score, of in scores:
            if score.needs:
                raise SteppeError(
                    f"coupling {self.name} trains {' and '.join(self.parts)}, not the weights, "
                    "which have no gradient of their own",
                    got=f"score {score.name}{of}, which needs the {', '.join(score.needs)}",
                    way_out=f"{option} l2, l1 or magnitude",
                )
