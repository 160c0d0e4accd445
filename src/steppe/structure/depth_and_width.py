"""Whole decoder blocks of language models, and neurons and heads of those that stay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from steppe.core.errors import SteppeError
from steppe.core.protocols import ShapeSearch, Structure
from steppe.structure.units import KINDS, Units

if TYPE_CHECKING:
    from steppe.method import Method

LAYERS = "layers"


@Structure.registry.register("depth_and_width")
@dataclass(frozen=True, kw_only=True)
class DepthAndWidth(Units, ShapeSearch):
    """Blocks go whole, and each block that stays loses as many neurons and heads as the others.

    Sparsity counts the weights of the decoder blocks. How much of it comes from where, calibration
    windows say that nothing else looks at (`steppe.llm.structured.damage`).

    Args:
        of: kinds of units; also ``"neurons+heads+layers"``.
        round_to: as many neurons as stay are a multiple of this.
        keep: none: how many stay is what is looked for.
        shapes: blocks, neurons and heads that may stay, of which the best is taken; if none are
            given, those that are no more than sparsity leaves and could have no more of anything.
        held_out: share of the calibration windows that judge; one window at least.
        levels: widths of each kind of units that are tried, blocks being all there.
        tried: shapes that are tried as a whole.
        tokens: calibration tokens, in whole windows, on which blocks are tried out.

    Example:
        >>> Structure.make("neurons+heads+layers").of
        ('neurons', 'heads')
    """

    shapes: tuple[tuple[int, int, int], ...] = ()
    held_out: float = 0.125
    levels: int = 3
    tried: int = 4
    tokens: int = 32768
    name = "depth_and_width"
    removes = "depth and width"

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "shapes", tuple(tuple(shape) for shape in self.shapes))
        if self.keep or not all(len(shape) == 3 and min(shape) >= 0 for shape in self.shapes):
            raise SteppeError(
                "how many blocks and units stay is looked for, or offered as shapes",
                got=f"keep {[list(pair) for pair in self.keep]}, shapes {list(self.shapes)}",
                way_out="shapes: [[5, 600, 8], [6, 504, 6]] (blocks, neurons, heads); or structure "
                "neurons+heads with keep",
            )
        if min(self.levels, self.tried, self.tokens) < 1 or not 0.0 < self.held_out < 1.0:
            raise SteppeError(
                "widths and shapes are tried, one at least, and judged on a share of the windows",
                got=f"levels {self.levels}, tried {self.tried}, tokens {self.tokens}, held_out "
                f"{self.held_out}",
                way_out="levels 3, tried 4, tokens 32768, held_out 0.125",
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        kinds = tuple(text.split("+"))
        units = tuple(kind for kind in kinds if kind != LAYERS)
        fits = LAYERS in kinds and units and set(units) <= set(KINDS)
        return cls(of=units) if fits else None

    def within(self, keep: Sequence[tuple[str, int]]) -> Units:
        return Units(of=self.of, keep=tuple(keep))

    def fits(self, method: Method) -> None:
        super().fits(method)
        if method.solver is not None and method.solver.shifts:
            raise SteppeError(
                "depth and width are weighed in a model that gets no new biases",
                got=f"{'+'.join((*self.of, LAYERS))} with coupling {method.coupling.name}",
                way_out="method slim; or method depth, and this one on what it leaves",
            )
