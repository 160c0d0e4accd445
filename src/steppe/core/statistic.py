"""What a score may need to know of the data: statistics gathered while training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.registry import Registry

STATISTICS: Registry[type[Statistic]] = Registry("statistic", "steppe.score")


@dataclasses.dataclass(frozen=True)
class WeightMemory:
    """What an optimiser remembers of a weight.

    Args:
        optimizer: the name of its class.
        options: of the weight's parameter group.
        entries: its state, as it is now.
        shape: of the weight.
        stepped: whether it has made a step with the weight.
    """

    optimizer: str
    options: Mapping[str, Any]
    entries: Mapping[str, Any]
    shape: tuple[int, ...]
    stepped: bool


@dataclasses.dataclass
class Statistic:
    """A running mean per weight, updated with the gradient at x of each step.

    The mean forgets with ``decay`` per step, so that it speaks of the present weights; its
    constant scale does not matter, as scores are only compared. ``prepare`` is called once,
    so a statistic over activations can hook the layers; `couple` where there are groups.
    """

    decay: float = 0.95
    values: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    name: ClassVar[str]
    gathered: ClassVar[bool] = True
    """Whether steps teach it; else it is read where it lies, before the first step too."""

    elementwise: ClassVar[bool] = False
    """Whether a value says of each entry of a weight what its own gradients were, and so can be
    gathered for a part of the weight."""

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of a value for a weight of that shape; the weight's, over which it broadcasts."""
        return weight

    @classmethod
    def gathers(cls, layer: Layer, module: nn.Module) -> bool:
        """Whether it can be gathered for that weight; else the layer stays dense and is named."""
        return True

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        """Called once before the first step with weight name -> (layer, module)."""

    def couple(self, groups: Sequence[Group]) -> None:
        """Called once after `prepare` where channels of several layers go together."""

    def remember(self, memory: Callable[[str], WeightMemory]) -> None:
        """Called once after `prepare`: where to look up what the optimiser knows of a weight."""

    def value(self, name: str) -> Tensor | None:
        """What is known of a weight now; None where nothing is."""
        return self.values.get(name)

    def begin(self) -> None:
        """Told that a step begins: what was seen in one that was never observed is forgotten."""

    def active(self, on: bool) -> None:
        """Told before and after each pass whether it is one to be observed (that at x is)."""

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        """Take in the gradient at x of one step."""
        raise NotImplementedError

    def mean_of(self, new: dict[str, Tensor]) -> None:
        """Let the running means take in the values of one step, for `observe`."""
        for name, value in new.items():
            self.values.setdefault(name, value.detach().clone())
        if not new:
            return
        means = [self.values[name] for name in new]
        # a model may have changed its data type on the way
        same = [value.to(self.values[name].dtype) for name, value in new.items()]
        torch._foreach_lerp_(means, same, 1.0 - self.decay)


@dataclasses.dataclass
class Known(Statistic):
    """Values that were known before the first step and do not move."""

    name = "known"

    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        """Nothing is left to learn."""


@STATISTICS.register("gradient")
class Gradient(Statistic):
    """E[g], the mean gradient."""

    name = "gradient"
    elementwise = True

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of(grads)


@STATISTICS.register("squared_gradient")
class SquaredGradient(Statistic):
    """E[g^2], the diagonal of the empirical Fisher matrix of mini-batch gradients."""

    name = "squared_gradient"
    elementwise = True

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        listed = list(grads.values())
        self.mean_of(dict(zip(grads, torch._foreach_mul(listed, listed), strict=True)))
