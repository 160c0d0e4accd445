"""Rectangles of neighbouring outputs and inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Structure


@Structure.registry.register("block")
@dataclass(frozen=True, kw_only=True)
class Block(Structure):
    """A unit is a block of ``height`` outputs by ``width`` inputs (at one kernel position).

    Args:
        height: outputs in a block; ``"block:4x8"`` has 4.
        width: inputs in a block.
    """

    height: int = 4
    width: int = 4
    name = "block"

    def __post_init__(self) -> None:
        if min(self.height, self.width) < 1:
            raise SteppeError(
                "a block must have at least one row and one column",
                got=f"{self.height}x{self.width}",
                way_out="write block:4x4",
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        match = re.fullmatch(r"block:(\d+)x(\d+)", text)
        return cls(height=int(match[1]), width=int(match[2])) if match else None

    def misfit(self, layer: Layer) -> tuple[str, str] | None:
        for what, size, by in (
            ("outputs", layer.rows, self.height),
            ("inputs", layer.inputs, self.width),
        ):
            if size % by:
                rule = f"blocks of {self.height}x{self.width} need {what} divisible by {by}"
                return rule, f"{size} {what}"
        return None

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        rows, columns = self.units(layer)
        tiles = layer.matrix(weight).reshape(rows, self.height, columns, self.width)
        return tiles.transpose(1, 2).reshape(rows, columns, self.height * self.width)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        rows, columns = self.units(layer)
        tiles = keep[:, None, :, None].expand(rows, self.height, columns, self.width)
        return layer.unmatrix(tiles.reshape(layer.rows, layer.columns)).contiguous()

    def units(self, layer: Layer) -> tuple[int, int]:
        return layer.rows // self.height, layer.columns // self.width
