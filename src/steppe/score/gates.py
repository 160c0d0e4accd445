"""A gate of ones behind each channel: its derivative, read from the norm that lies there.

With y = gamma x^ + beta and a gate z = 1 on y, dL/dz = gamma dL/dgamma + beta dL/dbeta. The filter
in front of the norm knows nothing of it: a norm that estimates its statistics from the batch undoes
every scale of a filter, so that the sum of g w over the filter is zero up to the norm's eps.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from steppe.core.given_tensors import GivenTensors
from steppe.core.group import Group, Slice
from steppe.core.layer import Layer
from steppe.core.statistic import STATISTICS, Statistic
from steppe.score.channel_norms import gates_of, layers_of
from steppe.score.products import product


class _OfGates(Statistic):
    """The mean of something of dL/dz, z = 1 a gate on all of a coupled channel.

    dL/dz is the sum over the norms in the group, and over the layers whose outputs do not go
    straight into such a norm: of each the sum of g w. Where norms lie on every path these add up
    to zero. A channel's value lies at its place in the first norm's scale; elsewhere are zeros.
    """

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._modules = {name.rpartition(".")[0]: module for name, (_, module) in modules.items()}
        self._groups: list[tuple[Slice, list[Slice], list[str]]] = []
        self._scales: set[str] = set()
        self._tensors: GivenTensors | None = None
        self._seen = False  # a pass to its end: one that failed has not shown everything
        self._pass = ExitStack()

    def couple(self, groups: Sequence[Group]) -> None:
        for group in groups:
            scales = gates_of(self._modules, group)
            self._scales |= {
                s.name for s in group.slices if s.role == "norm" and s.name.endswith("weight")
            }
            if not scales:
                continue
            layers = layers_of(self._modules, group)
            names = {*scales, *layers, *map(_bias, [*scales, *layers])}
            read = [s for s in group.slices if s.name in names and s.role != "input"]
            first = next(s for s in group.slices if s.name == scales[0])
            self._groups.append((first, read, layers))

    def active(self, on: bool) -> None:
        if not on:
            self._pass.close()
        elif not self._seen and self._groups:
            names = {self._module(n): n for n in sorted({n for _, _, o in self._groups for n in o})}
            norms = {self._module(s.name) for _, read, _ in self._groups for s in read} - {*names}
            self._tensors = GivenTensors(names, norms)
            self._pass.enter_context(self._tensors.watching())

    def _module(self, parameter: str) -> nn.Module:
        return self._modules[parameter.rpartition(".")[0]]

    def _counts(self, read: list[Slice], layers: list[str]) -> Iterator[Slice]:
        """The norms, and the layers beside them whose own sums are not zero."""
        tensors = self._tensors
        pairs = [] if tensors is None else [p for p in tensors.pairs if p[0] in layers]
        straight = {n for n, _ in pairs} - (set() if tensors is None else tensors.elsewhere)
        taking = {norm for n, norm in pairs if n in straight}
        own = {*layers, *map(_bias, layers)}
        norms = {self._module(s.name) for s in read if s.name not in own}
        # what other norms read is theirs alone, unless they undo a scale of the channel
        silent = straight if all(map(_undoes_scales, norms - taking)) else {*layers}
        silent |= {_bias(n) for n in silent}
        return (s for s in read if s.name not in silent)

    def _of(self, derivative: Tensor) -> Tensor:
        raise NotImplementedError

    def _values(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> dict[str, Tensor]:
        self._seen = self._tensors is not None
        scales = sorted(self._scales & grads.keys())
        gated = [(first, [*self._counts(read, own)]) for first, read, own in self._groups]
        read_by_any = {s.name for _, read in gated for s in read} & grads.keys()
        products = {n: product(weights, grads, n) for n in sorted({*scales, *read_by_any})}
        new = {name: torch.zeros_like(products[name]) for name in scales}
        for first, read in gated:
            if first.name in new:
                sums = [s.rows(products[s.name]).sum(1) for s in read if s.name in products]
                home = new[first.name]
                home[first.index[:, 0].to(home.device)] = self._of(
                    torch.stack([x.to(home.device, home.dtype) for x in sums]).sum(0)
                )
        return new

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of(self._values(weights, grads))


def _undoes_scales(norm: nn.Module) -> bool:
    """Whether it divides by what it finds in each channel of the batch."""
    of_batch = norm.training or getattr(norm, "running_mean", None) is None
    return isinstance(norm, _NormBase) and of_batch


def _bias(weight: str) -> str:
    return f"{weight.removesuffix('weight')}bias"


@STATISTICS.register("gate_square")
class GateSquare(_OfGates):
    """E[(dL/dz)^2] of each channel."""

    name = "gate_square"

    def _of(self, derivative: Tensor) -> Tensor:
        return derivative.square()


@STATISTICS.register("gate_absolute")
class GateAbsolute(_OfGates):
    """E|dL/dz| of each channel."""

    name = "gate_absolute"

    def _of(self, derivative: Tensor) -> Tensor:
        return derivative.abs()


@STATISTICS.register("gate_or_squares")
class GateOrSquares(GateSquare):
    """E[(dL/dz)^2] of each channel with a norm behind it, E[(g w)^2] of the others' weights."""

    name = "gate_or_squares"

    def couple(self, groups: Sequence[Group]) -> None:
        super().couple(groups)
        gated = [g for g in groups if gates_of(self._modules, g)]
        self._apart = {
            s.name for g in groups if g not in gated for s in g.slices if s.role == "output"
        }

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        squares = {n: product(weights, grads, n).square() for n in self._apart if n in grads}
        self.mean_of(self._values(weights, grads) | squares)
