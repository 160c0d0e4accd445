"""A linear layer that stores, reads and multiplies only what is kept of its weight."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Self

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.sparse.choose import choice_for
from steppe.sparse.format import FORMATS, Format


class Linear(nn.Module):
    """y = x W^T + b with a weight in a sparse format.

    It stands where an ``nn.Linear`` stood: ``state_dict()`` gives the dense ``weight`` and
    ``bias``, ``load_state_dict`` packs a dense weight anew, ``to`` and ``deepcopy`` work, and
    ``weight`` unpacks for code that reads it. The weight is frozen; gradients reach x and bias.

    Args:
        matrix: ``[out_features, in_features]`` in a format.
        bias: ``[out_features]`` or None.
        transposed: the dense weight is ``[in_features, out_features]``, as in transformers'
            Conv1D.

    Example:
        >>> import steppe
        >>> layer = torch.nn.Linear(64, 32)
        >>> with torch.no_grad():
        ...     layer.weight[layer.weight.abs() < 0.06] = 0
        >>> sparse = steppe.sparse.Linear.of(layer, format="bits")
        >>> x = torch.randn(2, 64)
        >>> torch.allclose(sparse(x), layer(x), atol=1e-5)
        True
        >>> torch.equal(sparse.state_dict()["weight"], layer.weight)
        True
    """

    bias: nn.Parameter | None

    def __init__(
        self, matrix: Format, bias: Tensor | None = None, transposed: bool = False
    ) -> None:
        super().__init__()
        self.out_features, self.in_features = matrix.rows, matrix.columns
        self.transposed = transposed
        self._names: dict[str, str] = {}
        self._packed(matrix)
        if bias is not None and not isinstance(bias, nn.Parameter):
            bias = nn.Parameter(bias)
        self.register_parameter("bias", bias)

    @classmethod
    def of(
        cls,
        layer: Any,
        format: str = "auto",
        *,
        values: str | None = None,
        tokens: int = 1,
    ) -> Self:
        """A linear layer, packed; it shares the bias.

        Args:
            layer: ``nn.Linear``, or transformers' Conv1D.
            format: ``bits``, ``index``, ``csr``, ``dense``; or ``auto``, the one that was
                measured to be the fastest here.
            values: ``int8`` stores 8 bits and a scale per row, which is not exact.
            tokens: rows of x that ``auto`` asks for.

        Raises:
            SteppeError: it is no such layer, or there is no such format.
        """
        if not is_linear(layer):
            raise SteppeError(
                "what is packed is an nn.Linear or transformers' Conv1D, not a subclass",
                got=type(layer).__name__,
                way_out="leave the layer as it is",
            )
        weight = dense_weight(layer)
        if format == "auto":
            format = choice_for(weight, tokens=tokens).format
        options = {} if values is None else {"values": values}
        matrix = FORMATS[format].from_dense(weight, **options)
        packed = cls(matrix, layer.bias, transposed=not isinstance(layer, nn.Linear))
        return packed.train(layer.training)

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
                if own[buffer] is getattr(known, name):  # the first tells: all move together
                    return known
                break
        changes = {name: own[buffer] for name, buffer in self._names.items()}
        return known.replaced(**changes)

    @property
    def weight(self) -> Tensor:
        """The dense weight, unpacked for whoever reads it."""
        dense = self.matrix.to_dense()
        return dense.t() if self.transposed else dense

    @property
    def format(self) -> str:
        """The format's name."""
        return self._matrix.name

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., in_features]`` -> ``[..., out_features]``."""
        return self.matrix.linear(x, self.bias)

    def extra_repr(self) -> str:
        """Sizes, the format, and what it takes."""
        matrix = self._matrix
        dense = matrix.rows * matrix.columns * matrix.dtype.itemsize
        return (
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"bias={self.bias is not None}, format={matrix.name}, "
            f"values={str(matrix.stored).removeprefix('torch.')}, "
            f"{matrix.sparsity:.1%} zeros, {matrix.bytes} of {dense} bytes"
        )

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        matrix = self._matrix
        dtype = fn(torch.empty(0, dtype=matrix.dtype, device=matrix_device(matrix))).dtype
        super()._apply(  # type: ignore[no-untyped-call]
            lambda t: t if any(t is own for own in self._buffers.values()) else fn(t)
        )
        self._packed(matrix.to(dtype).mapped(fn))
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
        weight = weight.t() if self.transposed else weight
        if weight.shape != (self.out_features, self.in_features):
            error_msgs.append(
                f"size mismatch for {key}: {list(state_dict[key].shape)} is not the shape of "
                f"a layer from {self.in_features} to {self.out_features}"
            )
            return
        matrix = self._matrix
        self._packed(matrix.repacked(weight.to(matrix_device(matrix), matrix.dtype)))


def matrix_device(matrix: Format) -> torch.device:
    """Where a matrix lies."""
    return next(iter(matrix.tensors().values())).device


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer can be packed: a subclass may compute something else.

    Example:
        >>> is_linear(torch.nn.Linear(1, 1)), is_linear(torch.nn.Bilinear(1, 1, 1))
        (True, False)
    """
    kind = type(layer)
    conv1d = (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")
    return kind is nn.Linear or conv1d


def dense_weight(layer: Any) -> Tensor:
    """``[out, in]`` of a linear layer or a Conv1D."""
    weight: Tensor = layer.weight.detach()
    return weight if isinstance(layer, nn.Linear) else weight.t()


def sparse_layers(model: nn.Module) -> Iterable[tuple[str, Linear]]:
    """Every `Linear` of a model by its name."""
    return ((name, m) for name, m in model.named_modules() if isinstance(m, Linear))
