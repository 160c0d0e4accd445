"""What stands in a layer's place and stores its weight in a sparse format."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, Self

import torch
from torch import Tensor, nn

from steppe.sparse.format import Format


class PackedModule(nn.Module):
    """A layer whose weight is a matrix in a format; its state is that of the dense layer.

    The matrix's tensors are buffers, so that they move with the model; no state dict holds them.

    Args:
        matrix: ``[outputs, inputs]`` in a format.
        bias: ``[outputs]`` or None.
    """

    bias: nn.Parameter | None

    def __init__(self, matrix: Format, bias: Tensor | None = None) -> None:
        super().__init__()
        self._names: dict[str, str] = {}
        self._packed(matrix)
        if bias is not None and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias)
        self.register_parameter("bias", bias)

    @abstractmethod
    def shaped(self, dense: Tensor) -> Tensor:
        """The matrix in the shape that the layer's weight had."""

    @abstractmethod
    def flat(self, weight: Tensor) -> Tensor:
        """The matrix of a weight of that shape."""

    @property
    @abstractmethod
    def weight_shape(self) -> tuple[int, ...]:
        """The shape that the layer's weight had."""

    def _packed(self, matrix: Format) -> None:
        """Take a matrix: its tensors are buffers that no state dict holds."""
        for buffer in self._names.values():
            del self._buffers[buffer]
        # a prefix, as a format may call its tensors by any name
        self._matrix, self._names = matrix, {name: f"packed_{name}" for name in matrix.tensors()}
        for name, tensor in matrix.tensors().items():
            self.register_buffer(self._names[name], tensor, persistent=False)

    @property
    def matrix(self) -> Format:
        """The weight in its format, of the buffers that the module has now."""
        known, own = self._matrix, self._buffers
        if not torch.compiler.is_compiling():
            for name, buffer in self._names.items():
                if own[buffer] is not getattr(known, name):
                    break
            else:
                return known
        changes = {name: own[buffer] for name, buffer in self._names.items()}
        return known.replaced(**changes)

    @property
    def weight(self) -> Tensor:
        """The dense weight, unpacked for whoever reads it."""
        return self.shaped(self.matrix.to_dense())

    @property
    def format(self) -> str:
        """The format's name."""
        return self._matrix.name

    def packed_repr(self) -> str:
        """The format and what it takes, for a layer's ``extra_repr``."""
        matrix = self._matrix
        dense = matrix.rows * matrix.columns * matrix.dtype.itemsize
        return (
            f"bias={self.bias is not None}, format={matrix.name}, "
            f"values={str(matrix.stored).removeprefix('torch.')}, "
            f"{matrix.sparsity:.1%} zeros, {matrix.bytes} of {dense} bytes"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        matrix = self.matrix
        dtype = fn(torch.empty(0, dtype=matrix.dtype, device=matrix_device(matrix))).dtype
        changed = matrix.to(dtype).mapped(fn)  # before anything else: it may be refused
        super()._apply(  # type: ignore[no-untyped-call]
            lambda t: t if any(t is own for own in self._buffers.values()) else fn(t)
        )
        self._packed(changed)
        return self

    def _save_to_state_dict(
        self, destination: dict[str, Any], prefix: str, keep_vars: bool
    ) -> None:
        destination[f"{prefix}weight"] = self.weight.contiguous()
        super()._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = f"{prefix}weight"
        rest = {name: t for name, t in state_dict.items() if name != key}
        super()._load_from_state_dict(
            rest, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs
        )
        if key not in state_dict:
            if strict:
                missing_keys.append(key)
            return
        weight = state_dict[key].detach()
        if weight.shape != self.weight_shape:
            error_msgs.append(
                f"size mismatch for {key}: {list(weight.shape)}, not {list(self.weight_shape)}"
            )
            return
        matrix = self._matrix
        flat = self.flat(weight).to(matrix_device(matrix), matrix.dtype)
        self._packed(matrix.repacked(flat))


def matrix_device(matrix: Format) -> torch.device:
    """Where a matrix lies."""
    return next(iter(matrix.tensors().values())).device
