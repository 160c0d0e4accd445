"""What calibration sees of a layer's inputs: means over all tokens."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from steppe.core.registry import Registry

CALIBRATION: Registry[type[Accumulator]] = Registry("calibration statistic", "steppe.score")


class Accumulator:
    """A sum over tokens that becomes a mean; sums of several processes may be added.

    Args:
        columns: number of the layer's inputs.
        device: where the sums live.
    """

    name: ClassVar[str]
    shape: ClassVar[str]

    def __init__(self, columns: int, device: torch.device) -> None:
        self.tokens = torch.zeros((), dtype=torch.float64, device=device)
        self.sum = self._zeros(columns, device)

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        raise NotImplementedError

    def add(self, x: Tensor) -> None:
        """Take in inputs ``[tokens, columns]``."""
        self.tokens += x.shape[0]
        self._add(x)

    def _add(self, x: Tensor) -> None:
        raise NotImplementedError

    def mean(self) -> Tensor:
        """The mean so far, which takes the place of the sum; zeros when nothing was seen."""
        self.sum /= self.tokens.clamp_min(1).to(self.sum.dtype)
        return self.sum


@CALIBRATION.register("gram")
class Gram(Accumulator):
    """E[x x'], ``[columns, columns]``: columns^2 numbers, 2 tokens columns^2 operations."""

    name = "gram"

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(columns, columns, device=device)

    def _add(self, x: Tensor) -> None:
        self.sum.addmm_(x.t(), x)


@CALIBRATION.register("activation_square")
class SquaredInput(Accumulator):
    """E[x_j^2], ``[1, columns]``."""

    name = "activation_square"

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(1, columns, device=device)

    def _add(self, x: Tensor) -> None:
        self.sum += torch.linalg.vector_norm(x, dim=0).square_()
