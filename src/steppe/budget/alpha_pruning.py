"""Layers whose weights have a heavy-tailed spectrum stay denser (AlphaPruning)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, by_block
from steppe.core.protocols import UnitBudget
from steppe.core.selection import apportion

if TYPE_CHECKING:
    from steppe.method import Method


@UnitBudget.registry.register("alpha_pruning")
@dataclass(frozen=True, kw_only=True)
class AlphaPruning(UnitBudget):
    """Sparsity follows the exponent of the power law in the spectrum of a block's weights.

    With lambda_1 <= ... <= lambda_n the squared singular values of a layer and k = n / 2, the
    estimator of Hill is ``alpha = 1 + k / sum over the k largest of ln(lambda / lambda_{n-k})``.
    A block has the mean of its layers. Sparsities are in proportion to
    ``1 - spread + 2 spread (alpha - min) / (max - min)``, and the total is exact.

    It needs the weights only, no text. Costs the singular values of each layer.

    Args:
        spread: epsilon; the block with the smallest alpha has (1 - spread) / (1 + spread) of the
            sparsity of the one with the largest.

    Source: Lu et al. 2024 (arXiv 2410.10912), equations 2 and 3 and its code (epsilon 0.2 with
    Wanda and SparseGPT at 70 %, 0.3 with magnitude).
    """

    spread: float = 0.2
    name = "alpha_pruning"
    uneven = True
    profiled_by = "magnitude"

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.spread < 1.0:
            raise SteppeError(
                "alpha_pruning needs a spread in [0, 1)",
                got=f"spread {self.spread}",
                way_out="spread 0.2",
            )

    def fits(self, method: Method) -> None:
        if method.structure.columns is None:
            raise SteppeError(
                "alpha_pruning looks at the spectrum of a layer's single weights",
                got=f"structure {method.structure.name}",
                way_out="structure unstructured, or budget uniform",
            )
        if method.objective.scope == "task" and method.score.name != self.profiled_by:
            raise SteppeError(
                "alpha_pruning looks at the spectrum of what is ranked, in a training loop",
                got=f"score {method.score.name}",
                way_out="score magnitude, or budget uniform",
            )

    def profile(self, units: Tensor) -> float:
        values = torch.linalg.svdvals(units.float()).double().square()  # the largest first
        values = values[values > values[:1] * torch.finfo(torch.float32).eps ** 2]
        k = len(values) // 2
        if not k:
            return 1.0  # of rank one, or zero: as heavy a tail as can be
        total = float((values[:k] / values[k]).log().sum())
        return 1.0 + k / max(total, torch.finfo(torch.float32).eps)

    def counts(
        self,
        layers: Mapping[str, Layer],
        sizes: Mapping[str, int],
        prune: int,
        profile: Mapping[str, float],
    ) -> dict[str, int]:
        blocks = by_block(layers, sorted(sizes))
        alpha = {b: sum(profile[n] for n in names) / len(names) for b, names in blocks.items()}
        low, high = min(alpha.values()), max(alpha.values())
        shares: dict[str, float] = {}
        for block, names in blocks.items():
            place = (alpha[block] - low) / (high - low) if high > low else 0.5
            sparsity = 1.0 - self.spread + 2.0 * self.spread * place  # in proportion
            shares |= {n: sparsity * sizes[n] for n in names}
        return apportion({n: shares[n] for n in sizes}, sizes, prune)
