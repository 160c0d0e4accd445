"""A convolution over images that multiplies only what is kept of its weight."""

from __future__ import annotations

from typing import Any, Self

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.sparse.format import FORMATS, Format, without_negative_zeros
from steppe.sparse.module import PackedModule

Pair = tuple[int, int]


class Convolution(PackedModule):
    """y = W * x + b, as a product with the patches that the kernel sees, image by image.

    It stands where an ``nn.Conv2d`` stood; see `steppe.sparse.Linear` for its state. Whether it is
    faster depends on the sparsity and the size of the image: `steppe.sparse.convert` measures it.

    Args:
        matrix: ``[out_channels, in_channels * height * width of the kernel]`` in a format.
        bias: ``[out_channels]`` or None.
        kernel_size: height and width.
        stride: steps between patches.
        padding: zeros around the image.
        dilation: steps within a patch.

    Example:
        >>> layer = nn.Conv2d(16, 8, 3, padding=1)
        >>> with torch.no_grad():
        ...     layer.weight[torch.rand_like(layer.weight) < 0.9] = 0
        >>> sparse = Convolution.of(layer, "bits")
        >>> x = torch.randn(2, 16, 5, 5)
        >>> torch.allclose(sparse(x), layer(x), atol=1e-5)
        True
    """

    def __init__(
        self,
        matrix: Format,
        bias: Tensor | None,
        *,
        kernel_size: Pair,
        stride: Pair,
        padding: Pair,
        dilation: Pair,
    ) -> None:
        super().__init__(matrix, bias)
        self.out_channels = matrix.rows
        self.in_channels = matrix.columns // (kernel_size[0] * kernel_size[1])
        self.kernel_size, self.stride = kernel_size, stride
        self.padding, self.dilation = padding, dilation

    @classmethod
    def of(cls, layer: Any, format: str) -> Self:
        """A convolution, packed; it shares the bias, and -0.0 in its weight becomes 0.0.

        Args:
            layer: ``nn.Conv2d`` with one group and zeros around the image.
            format: ``bits``, ``index``, ``csr`` or ``dense``.

        Raises:
            SteppeError: it is another layer, or there is no such format.
        """
        if not is_convolution(layer):
            raise SteppeError(
                "what is packed is an nn.Conv2d of one group with zeros around the image",
                got=repr(layer),
                way_out="leave the layer as it is",
            )
        weight = without_negative_zeros(layer.weight.detach().flatten(1))
        matrix = FORMATS[format].from_dense(weight)
        names = ("kernel_size", "stride", "padding", "dilation")
        settings = {name: getattr(layer, name) for name in names}
        return cls(matrix, layer.bias, **settings).train(layer.training)

    @property
    def weight_shape(self) -> tuple[int, ...]:
        """``[out_channels, in_channels, height, width]``."""
        return self.out_channels, self.in_channels, *self.kernel_size

    def shaped(self, dense: Tensor) -> Tensor:
        """The matrix with the kernel's height and width."""
        return dense.view(self.weight_shape)

    def flat(self, weight: Tensor) -> Tensor:
        """One row per output channel."""
        return weight.flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """x ``[N, in_channels, height, width]``, or without N."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise SteppeError(
                f"x must be images of {self.in_channels} channels, [N, channels, height, width]",
                got=list(x.shape),
                way_out="take the x that the dense convolution would take",
            )
        if x.ndim == 3:
            return self.forward(x[None])[0]
        bounds = zip(x.shape[2:], self.kernel_size, self.padding, self.dilation, strict=True)
        reached = [size + 2 * pad - step * (kernel - 1) for size, kernel, pad, step in bounds]
        height, width = ((r - 1) // s + 1 for r, s in zip(reached, self.stride, strict=True))
        y = torch.cat([self.matrix.linear(self._patches(one), self.bias) for one in x.split(1)])
        return y.transpose(1, 2).reshape(len(x), self.out_channels, height, width)

    def _patches(self, image: Tensor) -> Tensor:
        """``[1, places, inputs of a place]``."""
        if self.kernel_size == (1, 1) and self.padding == (0, 0):
            high, wide = self.stride
            return image[..., ::high, ::wide].flatten(2).transpose(1, 2)
        patches = nn.functional.unfold(
            image, self.kernel_size, self.dilation, self.padding, self.stride
        )
        return patches.transpose(1, 2)

    def extra_repr(self) -> str:
        """Sizes, the format, and what it takes."""
        sizes = f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"
        return f"{sizes}, stride={self.stride}, padding={self.padding}, {self.packed_repr()}"


def is_convolution(layer: Any) -> bool:
    """Whether a layer can be packed so.

    Example:
        >>> is_convolution(nn.Conv2d(4, 4, 3)), is_convolution(nn.Conv2d(4, 4, 3, groups=4))
        (True, False)
    """
    return (
        type(layer) is nn.Conv2d
        and layer.groups == 1
        and layer.padding_mode == "zeros"
        and not isinstance(layer.padding, str)
    )
