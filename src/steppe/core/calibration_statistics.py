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
    columnwise: ClassVar[bool] = False
    """Whether each column's number depends on that column alone."""

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
    """E[x x'], ``[columns, columns]``: columns^2 numbers, tokens columns^2 operations.

    Only the blocks on and above the diagonal are summed; the others are their mirror images.
    """

    name = "gram"

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(columns, columns, device=device)

    def _add(self, x: Tensor) -> None:
        for rows in self._strips():
            self.sum[rows, rows.start :].addmm_(x[:, rows].t(), x[:, rows.start :])

    def _strips(self) -> list[slice]:
        columns = len(self.sum)
        # the thinner, the less is done twice, and the slower each product
        step = max(128, -(-columns // 8))
        return [slice(i, min(i + step, columns)) for i in range(0, columns, step)]

    def mean(self) -> Tensor:
        for rows in self._strips():
            self.sum[rows.stop :, rows] = self.sum[rows, rows.stop :].t()
        return super().mean()


@CALIBRATION.register("activation_square")
class SquaredInput(Accumulator):
    """E[x_j^2], ``[1, columns]``."""

    name = "activation_square"
    columnwise = True

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(1, columns, device=device)

    def _add(self, x: Tensor) -> None:
        self.sum += torch.linalg.vector_norm(x, dim=0).square_()


@CALIBRATION.register("activation_mean")
class InputMean(Accumulator):
    """E[x_j], ``[1, columns]``."""

    name = "activation_mean"
    columnwise = True

    @staticmethod
    def _zeros(columns: int, device: torch.device) -> Tensor:
        return torch.zeros(1, columns, device=device, dtype=torch.float64)

    def _add(self, x: Tensor) -> None:
        self.sum += x.sum(0, dtype=torch.float64)

    def mean(self) -> Tensor:
        self.sum = super().mean().float()
        return self.sum
