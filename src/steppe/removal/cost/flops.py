"""The number of multiplications and additions."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from torch import nn

from steppe.core.group import Group
from steppe.removal.cost import COSTS, SummedCost
from steppe.removal.shapes import LayerShape, layer_shapes


@COSTS.register("flops")
class Flops(SummedCost):
    """Multiply-adds of the convolutions and linear layers for one input.

    A multiplication with its addition counts as 1, as in the papers on pruning ("FLOPs" of
    ResNet-50: 4.1e9); ``torch.utils.flop_counter`` counts it as 2. Biases, norms, activations and
    products of activations with each other (attention) are not counted.

    Args:
        layers: of the network.
    """

    unit = "multiply-adds"

    def __init__(self, layers: Sequence[LayerShape]) -> None:
        self._layers = [layer for layer in layers if layer.kind != "norm"]
        super().__init__(len(self._layers))

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, groups: Sequence[Group], **options: Any
    ) -> Self:
        return cls(layer_shapes(model, example_inputs, groups), **options)

    def groups_of(self, number: int) -> Iterable[str]:
        layer = self._layers[number]
        return (own.group for side in (layer.inputs, layer.outputs) for own in side.from_groups)

    def term(self, number: int, kept: Mapping[str, int]) -> float:
        return self._layers[number].multiply_adds(kept)
