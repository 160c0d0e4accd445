"""Low-rank adapters under the mask, merged at the end; norms and biases beside them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from steppe.engine.blockwise.stages import Stage
from steppe.engine.blockwise.trained import TRAINED


@TRAINED.register("lora")
class Lora:
    """M (W + B A) of every matrix, with B 0 and A random at first; and norms and biases.

    The product is masked in every step, so what is trained is what is merged.

    Args:
        stage: a block or a part of it.
        rank: columns of B, rows of A.
        seed: of A.

    Source: Zimmer et al., PERP (MaskLoRA), arXiv 2312.15230.
    """

    lr = 5e-3
    lr_of_whole = None

    def __init__(self, stage: Stage, rank: int, seed: int) -> None:
        own = stage.parameters()
        matrices = {n: p for n, p in own.items() if p.ndim > 1 and min(p.shape[-2:]) > 1}
        self.module: _Adapted = _Adapted(stage.module, matrices, rank, seed)
        self.parameters = [*self.module.adapters(), *self.chosen(own)]

    @classmethod
    def chosen(cls, parameters: Mapping[str, nn.Parameter]) -> list[nn.Parameter]:
        return [p for p in parameters.values() if p.ndim < 2]

    @torch.no_grad()
    def merge(self) -> None:
        """W becomes M (W + B A)."""
        for name, weight in self.module.adapted().items():
            self.module.matrices[name].copy_(weight)


class _Adapted(nn.Module):
    """A module called with M (W + B A) in the place of its matrices."""

    def __init__(
        self, inner: nn.Module, matrices: dict[str, nn.Parameter], rank: int, seed: int
    ) -> None:
        super().__init__()
        self.inner, self.matrices = inner, matrices
        draws = torch.Generator().manual_seed(seed)
        self.low, self.high = nn.ParameterList(), nn.ParameterList()
        for weight in matrices.values():
            *stacked, rows, columns = weight.shape
            r = min(rank, rows, columns)
            a = torch.randn(*stacked, r, columns, generator=draws) / math.sqrt(columns)
            self.low.append(nn.Parameter(a.to(weight)))
            self.high.append(nn.Parameter(weight.new_zeros(*stacked, rows, r)))

    def adapters(self) -> list[nn.Parameter]:
        return [*self.low, *self.high]

    def adapted(self) -> dict[str, Tensor]:
        """Name -> M (W + B A); W itself, with the sign of its zeros, where M is 0."""
        pairs = zip(self.matrices.items(), self.high, self.low, strict=True)
        return {
            name: torch.where(weight != 0, weight + high @ low, weight)
            for (name, weight), high, low in pairs
        }

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return functional_call(self.inner, self.adapted(), args, kwargs)
