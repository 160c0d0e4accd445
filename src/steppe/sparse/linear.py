"""A linear layer that stores, reads and multiplies only what is kept of its weight."""

from __future__ import annotations

from typing import Any, Self

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.sparse.choose import choice_for
from steppe.sparse.format import FORMATS, Format, check_format, without_negative_zeros
from steppe.sparse.module import PackedModule


class Linear(PackedModule):
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
        >>> import steppe, torch
        >>> layer = nn.Linear(64, 32)
        >>> with torch.no_grad():
        ...     layer.weight[layer.weight.abs() < 0.06] = 0
        >>> sparse = steppe.sparse.Linear.of(layer, format="bits")
        >>> x = torch.randn(2, 64)
        >>> torch.allclose(sparse(x), layer(x), atol=1e-5)
        True
        >>> torch.equal(sparse.state_dict()["weight"], layer.weight)
        True
    """

    def __init__(
        self, matrix: Format, bias: Tensor | None = None, transposed: bool = False
    ) -> None:
        if not isinstance(matrix, Format):
            raise SteppeError(
                "a packed layer is made of a matrix in a format",
                got=type(matrix).__name__,
                way_out="steppe.sparse.Linear.of(nn.Linear(...))",
            )
        super().__init__(matrix, bias)
        self.out_features, self.in_features = matrix.rows, matrix.columns
        self.transposed = transposed

    @classmethod
    def of(
        cls,
        layer: Any,
        format: str = "auto",
        *,
        values: str | None = None,
        tokens: int = 1,
    ) -> Self:
        """A linear layer, packed; it shares the bias, and -0.0 in its weight becomes 0.0.

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
                way_out="leave the layer as it is; steppe.sparse.convert packs convolutions too",
            )
        check_format(format)
        weight = without_negative_zeros(dense_weight(layer))
        if format == "auto":
            format = choice_for(weight, tokens=tokens).format
        options = {} if values is None else {"values": values}
        matrix = FORMATS[format].from_dense(weight, **options)
        packed = cls(matrix, layer.bias, transposed=not isinstance(layer, nn.Linear))
        return packed.train(layer.training)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``[out_features, in_features]``, or the other way round for a Conv1D."""
        shape = self.out_features, self.in_features
        return shape[::-1] if self.transposed else shape

    def shaped(self, dense: Tensor) -> Tensor:
        """The matrix, or the other way round for a Conv1D."""
        return dense.t() if self.transposed else dense

    def flat(self, weight: Tensor) -> Tensor:
        """The matrix of a weight."""
        return weight.t() if self.transposed else weight

    def forward(self, x: Tensor) -> Tensor:
        """x ``[..., in_features]`` -> ``[..., out_features]``."""
        return self.matrix.linear(x, self.bias)

    def extra_repr(self) -> str:
        """Sizes, the format, and what it takes."""
        sizes = f"in_features={self.in_features}, out_features={self.out_features}"
        return f"{sizes}, {self.packed_repr()}"


def is_linear(layer: nn.Module) -> bool:
    """Whether a layer can be packed: a subclass may compute something else.

    Example:
        >>> is_linear(nn.Linear(1, 1)), is_linear(nn.Bilinear(1, 1, 1))
        (True, False)
    """
    kind = type(layer)
    conv1d = (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D")
    return kind is nn.Linear or conv1d


def dense_weight(layer: Any) -> Tensor:
    """``[out, in]`` of a linear layer or a Conv1D."""
    weight: Tensor = layer.weight.detach()
    return weight if isinstance(layer, nn.Linear) else weight.t()
