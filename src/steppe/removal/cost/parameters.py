"""The number of parameters that stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Self

from torch import nn

from steppe.core.group import Group
from steppe.removal.cost import COSTS, SummedCost
from steppe.removal.shapes import Width, group_widths


@COSTS.register("parameters")
class Parameters(SummedCost):
    """All parameters of the model, weights, biases and norms; tied ones count once.

    It is what counting gives after the channels have been removed, exactly. Buffers (running
    statistics) are no parameters.

    Args:
        tensors: of each parameter the widths along its dimensions.
    """

    unit = "parameters"

    def __init__(self, tensors: Sequence[tuple[Width, ...]]) -> None:
        # what no group touches is one constant term
        self._tensors = [t for t in tensors if any(w.from_groups for w in t)]
        self._fixed = sum(
            math.prod(w.full for w in t) for t in tensors if not any(w.from_groups for w in t)
        )
        super().__init__(len(self._tensors))

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, groups: Sequence[Group], **options: Any
    ) -> Self:
        names: dict[int, list[str]] = {}
        parameters: dict[int, nn.Parameter] = {}
        for name, parameter in model.named_parameters(remove_duplicate=False):
            names.setdefault(id(parameter), []).append(name)
            parameters[id(parameter)] = parameter
        return cls(
            [
                tuple(
                    Width(size, group_widths(names[key], dim, groups))
                    for dim, size in enumerate(parameters[key].shape)
                )
                for key in parameters
            ],
            **options,
        )

    def groups_of(self, number: int) -> Iterable[str]:
        return (own.group for width in self._tensors[number] for own in width.from_groups)

    def term(self, number: int, kept: Mapping[str, int]) -> float:
        return math.prod(width.at(kept) for width in self._tensors[number])

    def total(self, kept: Mapping[str, int]) -> float:
        return self._fixed + super().total(kept)
