"""The protocol of the structure axis: which shape?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.layer import Layer
from steppe.core.part import Part, Tensors, axis
from steppe.core.patterns import kinds_of, listed


class Structure(Part):
    """Which shape? How weights are tied into units that live and die together."""

    registry = axis("structure")
    whole_outputs: ClassVar[bool] = False
    """Whether a unit is a whole output of its layer."""
    whole_inputs: ClassVar[bool] = False
    """Whether a unit is whole inputs of its layer, which are gone for all of its outputs."""
    removes: ClassVar[str | None] = None
    """What of a language model is really gone (see `steppe.llm.structured`); None: weights are
    zero, and stay where they are."""

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

    def among(self, layers: Sequence[Layer]) -> list[Layer]:
        """Those of a model's prunable layers whose weights are ranked; all by default.

        Raises:
            SteppeError: there are none.
        """
        return list(layers)

    def count(self, layer: Layer, sparsity: float) -> int | None:
        """Units that a layer loses where the shape alone decides; None leaves it to the budget."""
        return None

    def stays(self, width: int, sparsity: float, multiple: int = 1) -> int:
        """Dimensions of a residual stream that stay, where they are what goes.

        Args:
            width: how many there are.
            sparsity: fraction of them that goes.
            multiple: what the model needs their number to be a multiple of.
        """
        raise NotImplementedError

    @property
    def sparsity(self) -> float | None:
        """The sparsity that the shape itself fixes (N:M), or None."""
        return None

    def misfit(self, layer: Layer) -> tuple[str, str] | None:
        """The rule that a layer breaks, and what of it does (``"30 inputs"``); None if it fits."""
        return None

    def check(self, layer: Layer) -> None:
        """Raise SteppeError when the layer cannot have this shape, naming the layer."""
        misfit = self.misfit(layer)
        if misfit is not None:
            raise _refusal({layer.name: misfit}, None)

    def check_all(self, layers: Sequence[Layer]) -> None:
        """Raise SteppeError when layers cannot have this shape.

        All of them are named, with patterns that exclude them and nothing else.
        """
        named = {layer.name: self.misfit(layer) for layer in layers}
        misfits = {name: misfit for name, misfit in named.items() if misfit is not None}
        if misfits:
            raise _refusal(misfits, [name for name in named if name not in misfits])
        for layer in layers:
            self.check(layer)

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        """A weight-shaped tensor as ``[rows, units per row, members of a unit]``."""
        raise NotImplementedError

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        """``[rows, units per row]`` booleans -> a mask of the weight's shape."""
        raise NotImplementedError

    def units(self, layer: Layer) -> tuple[int, int]:
        """(rows of units, units per row)."""
        raise NotImplementedError

    def gone(self, shares: Sequence[tuple[Layer, float]]) -> str:
        """What of a block is gone, in words.

        Args:
            shares: layers that were ranked, and the fraction of each that is zero; one or more.
        """
        return f"{sum(share for _, share in shares) / len(shares):.2%} zeros"

    @property
    def columns(self) -> int | None:
        """Neighbouring inputs whose fate is decided together; None where rows are tied too."""
        return None

    def select(self, units: Tensors) -> Tensors | None:
        """The kept units where the shape alone decides (N:M); None leaves it to the budget."""
        return None


class ShapeSearch(Structure):
    """A structure of which several shapes would do, and measuring says which is taken."""

    of: tuple[str, ...]
    """Kinds of units that go beside whole blocks."""
    round_to: int
    """As many neurons as stay are a multiple of this."""
    shapes: tuple[tuple[int, int, int], ...]
    """Blocks, neurons and heads that may stay; empty where sparsity says how much goes."""
    held_out: float
    """Share of the calibration windows that judge."""
    levels: int
    """Widths of each kind of units that are tried."""
    tried: int
    """Shapes that are tried as a whole."""
    tokens: int
    """Calibration tokens on which blocks are tried out."""

    def within(self, keep: Sequence[tuple[str, int]]) -> Structure:
        """The structure that leaves so many units of each kind in every block."""
        raise NotImplementedError


def _refusal(misfits: Mapping[str, tuple[str, str]], fitting: Sequence[str] | None) -> SteppeError:
    """The error for layers; with the names of those that fit, if they are known."""
    rules = dict.fromkeys(rule for rule, _ in misfits.values())
    alike: dict[str, list[str]] = {}
    for name, (_, what) in misfits.items():
        alike.setdefault(what, []).append(name)
    excluded = kinds_of(list(misfits), fitting or [])
    flags = " ".join(f"--exclude '{pattern}'" for pattern in excluded)
    it = "it" if len(misfits) == 1 else "them"
    exclude = f"{flags} (in Python exclude={excluded}), which keeps {it} dense, or "
    return SteppeError(
        ", and ".join(rules),
        got="; ".join(f"{what} in {listed(names)}" for what, names in alike.items()),
        way_out=exclude + "another structure"
        if fitting != []
        else "another structure, e.g. unstructured: with --exclude nothing would be left",
    )
