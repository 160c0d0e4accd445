"""What a format of a sparse matrix is, and which there are."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import fields, replace
from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from steppe.core.errors import SteppeError, unknown
from steppe.core.registry import Registry
from steppe.sparse.reference import integers

FORMATS: Registry[type[Format]] = Registry("format", "steppe.sparse.formats")
"""Every format by its name; another package adds its own by an entry point of that group."""

FLOATS = (torch.float32, torch.bfloat16, torch.float16)
"""What can be packed."""
_CPU = torch.device("cpu")


class Format(ABC):
    """A matrix ``[rows, columns]`` in one form; a frozen dataclass of tensors and plain values.

    Attributes:
        name: under which it is registered.
        rows: outputs.
        columns: inputs.
        dtype: of the dense matrix, whatever the values are stored in.
    """

    name: ClassVar[str]
    rows: int
    columns: int
    dtype: torch.dtype

    @classmethod
    @abstractmethod
    def from_dense(cls, weight: Tensor) -> Self:
        """Of a matrix; the values in the smallest dtype that holds them (`exact_dtype`).

        Raises:
            SteppeError: it is no matrix of a dtype that the format knows.
        """

    @classmethod
    @abstractmethod
    def from_compact(
        cls, bits: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype | None = None
    ) -> Self:
        """Of what ``steppe export --to compact`` stores, without the dense matrix.

        Args:
            bits: uint8, eight weights to a byte, the first in the highest bit.
            values: those whose bit is set, in row order.
            shape: rows and columns.
            dtype: of the dense matrix; the values' own if None.
        """

    @abstractmethod
    def to_dense(self) -> Tensor:
        """The matrix, bit for bit unless the format says that it is not `exact`."""

    @abstractmethod
    def linear(self, x: Tensor, bias: Tensor | None) -> Tensor:
        """y = x W^T + b in x's dtype; x ``[..., columns]``, y ``[..., rows]``."""

    @abstractmethod
    def to(self, dtype: torch.dtype) -> Self:
        """The same matrix in another dtype, rounded as the dense one would be."""

    @classmethod
    def quick(cls, device: torch.device = _CPU) -> bool:
        """Whether it has a product of its own on a device, so that it is worth measuring."""
        return True

    @property
    @abstractmethod
    def kept(self) -> int:
        """Entries that are stored."""

    @property
    def exact(self) -> bool:
        """Whether the dense matrix comes back bit for bit."""
        return True

    @property
    def stored(self) -> torch.dtype:
        """What the values are stored in."""
        return self.dtype

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        return sum(t.numel() * t.element_size() for t in self.tensors().values())

    @property
    def sparsity(self) -> float:
        """Share of what is not stored."""
        return 1 - self.kept / max(self.rows * self.columns, 1)

    def tensors(self) -> dict[str, Tensor]:
        """Those that it is made of, by name."""
        own = ((f.name, getattr(self, f.name)) for f in fields(self))  # type: ignore[arg-type]
        return {name: value for name, value in own if isinstance(value, Tensor)}

    def replaced(self, **changes: Any) -> Self:
        """With other tensors or values of the same names."""
        return replace(self, **changes)  # type: ignore[type-var]

    def mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """With each tensor changed, such as moved; it sees integers only, so no dtype changes."""
        return self.replaced(
            **{name: change(integers(t)).view(t.dtype) for name, t in self.tensors().items()}
        )

    def repacked(self, weight: Tensor) -> Self:
        """Another matrix in the same form."""
        return self.from_dense(weight)


def check_format(format: str) -> None:
    """Whether there is such a format, or it is ``auto``.

    Raises:
        SteppeError: there is not.
    """
    if format != "auto" and format not in FORMATS:
        raise unknown("format", format, ["auto", *FORMATS])


def check_matrix(name: str, weight: Tensor) -> None:
    """Whether a matrix can be packed.

    Raises:
        SteppeError: it has not two dimensions, or another dtype.
    """
    if weight.ndim != 2 or weight.dtype not in FLOATS:
        raise SteppeError(
            f"the format {name} takes matrices of float32, bfloat16 or float16",
            got=f"shape {list(weight.shape)}, {str(weight.dtype).removeprefix('torch.')}",
            way_out="the format dense, or another dtype",
        )


def check_dtype(name: str, dtype: torch.dtype) -> None:
    """Whether a matrix can be in a dtype: also in float64, whose numbers are those of another.

    Raises:
        SteppeError: it cannot.
    """
    if dtype not in (*FLOATS, torch.float64):
        raise SteppeError(
            f"the format {name} is float32, bfloat16, float16, or one of these widened to float64",
            got=str(dtype).removeprefix("torch."),
            way_out="the format dense, or another dtype",
        )


def narrowed(values: Tensor) -> Tensor:
    """The same numbers in the smallest dtype that holds all of them, bit for bit.

    A float32 model whose weights were stored in 16 bits has only numbers of 16 bits.

    Example:
        >>> narrowed(torch.tensor([1.0, -0.0, 3.0])).dtype
        torch.bfloat16
        >>> narrowed(torch.tensor([0.1])).dtype
        torch.float32
    """
    if values.dtype != torch.float32:
        return values
    halves = values.contiguous().view(torch.int16).view(*values.shape, 2)
    low, high = (0, 1) if _LITTLE else (1, 0)
    if not halves[..., low].any():
        return halves[..., high].contiguous().view(torch.bfloat16)
    half = values.half()
    same = torch.equal(half.float().view(torch.int32), values.contiguous().view(torch.int32))
    return half if same else values


_LITTLE = bool(torch.ones(1).view(torch.int16)[0] == 0)


def without_negative_zeros(weight: Tensor) -> Tensor:
    """The same numbers, where -0.0 has become 0.0, which need not be stored.

    A weight times a mask is -0.0 where the weight was negative: half of such zeros would be kept.

    Example:
        >>> signed = torch.tensor([-1.0, -2.0]) * torch.tensor([0.0, 1.0])
        >>> signed, without_negative_zeros(signed)
        (tensor([-0., -2.]), tensor([ 0., -2.]))
    """
    bits = integers(weight.contiguous())
    return weight + 0.0 if bool((bits == torch.iinfo(bits.dtype).min).any()) else weight


def exact_dtype(weight: Tensor) -> torch.dtype:
    """The smallest dtype that holds all of a matrix, bit for bit.

    Example:
        >>> exact_dtype(torch.ones(2, 2)), exact_dtype(torch.full((2, 2), 0.1))
        (torch.bfloat16, torch.float32)
    """
    return narrowed(weight.detach()).dtype


def holds(wide: torch.dtype, narrow: torch.dtype) -> bool:
    """Whether each number of the one dtype is a number of the other.

    Example:
        >>> holds(torch.float32, torch.bfloat16), holds(torch.float16, torch.bfloat16)
        (True, False)
    """
    return narrow == torch.int8 or torch.promote_types(wide, narrow) == wide
