"""Statistics of products g w of gradient and weight, which the Taylor scores read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.statistic import STATISTICS, Statistic


def product(weights: dict[str, Tensor], grads: dict[str, Tensor], name: str) -> Tensor:
    """g w, in float32 at least: the product of two small halves is zero.

    Args:
        weights, grads: name -> tensor.
        name: of the one that is wanted.
    """
    weight, grad = weights[name], grads[name]
    return weight * grad if weight.dtype == torch.float64 else weight.float() * grad.float()


@STATISTICS.register("absolute_product")
class AbsoluteProduct(Statistic):
    """E|g w| of each weight."""

    name = "absolute_product"
    elementwise = True

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of({name: product(weights, grads, name).abs() for name in grads})


@STATISTICS.register("product_square")
class ProductSquare(Statistic):
    """E[(g w)^2] of each weight."""

    name = "product_square"
    elementwise = True

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of({name: product(weights, grads, name).square() for name in grads})


class _OfOutputs(Statistic):
    """What is the mean of something of s = sum over the weights of one output of g w.

    Values have one entry for each output and broadcast over the weight.
    """

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._dims: dict[str, tuple[int, ...]] = {}
        self._groups: dict[str, int] = {}
        for name, (layer, module) in modules.items():
            inputs_first = layer.transposed or type(module).__name__ == "Conv1D"
            inputs_first = inputs_first and not isinstance(module, nn.Conv1d)
            if isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
                inputs_first, self._groups[name] = True, module.groups
            row = int(layer.stacked) + int(inputs_first)
            outputs = {row, 0} if layer.stacked else {row}
            self._dims[name] = tuple(d for d in range(len(layer.shape)) if d not in outputs)

    def _of(self, sums: Tensor) -> Tensor:
        raise NotImplementedError

    def _sums(self, product: Tensor, name: str) -> Tensor:
        groups = self._groups.get(name, 1)
        if groups == 1:
            return product.sum(self._dims[name], keepdim=True)
        apart = product.unflatten(0, (groups, -1))  # [groups, inputs, outputs, *kernel]
        sums = apart.sum((1, *range(3, apart.ndim)), keepdim=True)
        every: Tensor = sums.expand(-1, apart.shape[1], *[-1] * (apart.ndim - 2))
        return every.flatten(0, 1)

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        self.mean_of(
            {
                name: self._of(self._sums(product(weights, grads, name), name))
                for name in grads
                if weights[name].ndim > 1
            }
        )


@STATISTICS.register("output_square")
class OutputSquare(_OfOutputs):
    """E[s^2] of each output, s = sum of g w over its weights in one batch."""

    name = "output_square"

    def _of(self, sums: Tensor) -> Tensor:
        return sums.square()


@STATISTICS.register("output_absolute")
class OutputAbsolute(_OfOutputs):
    """E|s| of each output, s = sum of g w over its weights in one batch."""

    name = "output_absolute"

    def _of(self, sums: Tensor) -> Tensor:
        return sums.abs()
