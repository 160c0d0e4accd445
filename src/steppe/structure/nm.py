"""N kept of every M neighbouring inputs."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import Structure, Tensors, UnitBudget
from steppe.core.selection import keep_largest_per_row

if TYPE_CHECKING:
    from steppe.method import Method


@Structure.registry.register("nm")
@dataclass(frozen=True, kw_only=True)
class NM(Structure):
    """N weights **kept** of every M consecutive ones along the input dimension.

    The sparsity is 1 - N/M and every budget gives the same counts. Before a schedule's end only
    weights that lose in their group are zeroed, the smallest first.

    Args:
        n: weights kept in each group; ``"2:4"`` keeps 2.
        m: group size.
    """

    n: int
    m: int
    name = "nm"

    def __post_init__(self) -> None:
        if not 1 <= self.n < self.m:
            raise SteppeError(
                "N:M keeps N of every M weights, so 1 <= N < M must hold",
                got=f"{self.n}:{self.m}",
                way_out=f"write {self.m}:{self.n} if the numbers are swapped"
                if self.n > self.m >= 1
                else "2:4 keeps 2 of 4",
            )

    @classmethod
    def parse(cls, text: str) -> Self | None:
        match = re.fullmatch(r"(\d+):(\d+)", text)
        return cls(n=int(match[1]), m=int(match[2])) if match else None

    @property
    def sparsity(self) -> float:
        return 1.0 - self.n / self.m

    def fits(self, method: Method) -> None:
        if abs(method.budget.target - self.sparsity) > 1e-9:
            raise SteppeError(
                f"{self.n}:{self.m} keeps {self.n} of {self.m}: a sparsity of {self.sparsity:g}",
                got=f"sparsity {method.budget.target:g}",
                way_out="leave the sparsity out, or choose another N:M",
            )
        if isinstance(method.budget, UnitBudget) and method.budget.uneven:
            raise SteppeError(
                f"{self.n}:{self.m} gives every layer the same sparsity",
                got=f"budget {method.budget.name}",
                consequence="that budget wants different sparsities per layer",
                way_out="use budget pooled, uniform or per_row",
            )

    def misfit(self, layer: Layer) -> tuple[str, str] | None:
        if layer.inputs % self.m == 0:
            return None
        rule = f"{self.n}:{self.m} needs the input dimension divisible by {self.m}"
        return rule, f"{layer.inputs} inputs"

    def groups(self, weight: Tensor, layer: Layer) -> Tensor:
        return layer.matrix(weight).unsqueeze(-1)

    def expand(self, keep: Tensor, layer: Layer) -> Tensor:
        return layer.unmatrix(keep)

    def units(self, layer: Layer) -> tuple[int, int]:
        return layer.rows, layer.columns

    def select(self, units: Tensors) -> Tensors:
        return {
            name: keep_largest_per_row(u.reshape(-1, self.m), self.m - self.n).reshape(u.shape)
            for name, u in units.items()
        }

    @property
    def columns(self) -> int:
        return self.m
