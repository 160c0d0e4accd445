"""No information: the floor that every score must beat."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.protocols import Score
from steppe.core.seed import checked_seed


@Score.registry.register("random")
@dataclass(frozen=True, kw_only=True)
class Random(Score):
    """Uniform in (0, 1], fixed by the weight's name and the seed."""

    name = "random"
    seed: int = 0

    def __post_init__(self) -> None:
        checked_seed(self.seed)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        generator = torch.Generator().manual_seed(zlib.crc32(key.encode()) ^ self.seed)
        # open at 0, so that a random score never ties with a weight that is already gone
        drawn = torch.rand(weight.shape, generator=generator).add_(1e-6)
        return drawn.to(weight.device)
