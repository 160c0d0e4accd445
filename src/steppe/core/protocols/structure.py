"""The protocol of the structure axis: which shape?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Self

from torch import Tensor

from steppe.core.errors import unknown
from steppe.core.layer import Layer
from steppe.core.part import Part, Tensors, axis


class Structure(Part):
    """Which shape? How weights are tied into units that live and die together."""

    registry = axis("structure")
    whole_outputs: ClassVar[bool] = False
    """Whether a unit is a whole output of its layer."""

    @classmethod
    def parse(cls, text: str) -> Self | None:
        """The structure that a short form such as ``2:4`` stands for, or None."""
        return None

    @classmethod
    def make(cls, spec: Part | str | Mapping[str, Any]) -> Self:
        """As `Part.make`; a string may also be a short form, ``2:4`` or ``block:4x4``."""
        if isinstance(spec, str) and spec not in cls.registry:
            for name in cls.registry:
                parsed = cls.registry[name].parse(spec)
                if parsed is not None:
                    assert isinstance(parsed, cls)
                    return parsed
            raise unknown("structure", spec, [*cls.registry, "2:4", "block:4x4"])
        return super().make(spec)

    @property
    def sparsity(self) -> float | None:
        """The sparsity that the shape itself fixes (N:M), or None."""
        return None

    def check(self, layer: Layer) -> None:
        """Raise SteppeError when the layer cannot have this shape, naming the layer."""

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        """A weight-shaped tensor as ``[rows, units per row, members of a unit]``."""
        raise NotImplementedError

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        """``[rows, units per row]`` booleans -> a mask of the weight's shape."""
        raise NotImplementedError

    def units(self, layer: Layer) -> tuple[int, int]:
        """(rows of units, units per row)."""
        raise NotImplementedError

    @property
    def columns(self) -> int | None:
        """Neighbouring inputs whose fate is decided together; None where rows are tied too."""
        return None

    def select(self, units: Tensors) -> Tensors | None:
        """The kept units where the shape alone decides (N:M); None leaves it to the budget."""
        return None
