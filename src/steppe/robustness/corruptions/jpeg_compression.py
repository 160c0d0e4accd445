"""Compressed to JPEG and back."""

from __future__ import annotations

from torch import Tensor

from steppe.robustness.corruptions import corruption
from steppe.robustness.draws import Draws
from steppe.robustness.jpeg import jpeg


@corruption("jpeg_compression", small=(80, 65, 58, 50, 40), large=(25, 18, 15, 10, 7))
def jpeg_compression(x: Tensor, quality: int, draws: Draws) -> Tensor:
    """What baseline JPEG of that quality leaves, colours at half resolution."""
    return jpeg(x, quality)
