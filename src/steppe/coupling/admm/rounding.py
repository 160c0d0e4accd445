"""Numbers kept in 16 bits, rounded up or down by chance."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import torch
from torch import Tensor

_LOW = 1 << 16
"""What the lower half of a float32 counts to: bfloat16 is its upper half."""


@dataclass(frozen=True)
class Rounding:
    """How a tensor of the state is kept.

    In bfloat16 a value lies between two neighbours and becomes the upper one with the probability
    of its distance from the lower one. So its mean is the value, the error is below one unit in
    the last place (2^-7 of it), and what is added little by little is not lost.

    Args:
        dtype: bfloat16, or None for the weights' own, which is exact.
        seed: of the chance, which is a function of it, of name and step alone.
    """

    dtype: torch.dtype | None
    seed: int

    def __call__(self, value: Tensor, name: str, step: int) -> Tensor:
        """The value as it is kept.

        Args:
            value: any shape.
            name: of its weight.
            step: at which it is kept.

        Example:
            >>> Rounding(torch.bfloat16, 0)(torch.tensor([1.0, -0.375]), "w", 3)
            tensor([ 1.0000, -0.3750], dtype=torch.bfloat16)
        """
        if self.dtype in (None, value.dtype):
            return value
        seed = (zlib.crc32(name.encode()) ^ self.seed) * 1_000_003 + step
        generator = torch.Generator(value.device).manual_seed(seed)
        chance = torch.randint(
            _LOW, value.shape, dtype=torch.int32, device=value.device, generator=generator
        )
        bits = value.float().view(torch.int32).add(chance).bitwise_and_(-_LOW)
        return bits.view(torch.float32).to(torch.bfloat16)
