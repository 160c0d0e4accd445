"""How a weight is seen as a matrix."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

STACKED = 8
"""Neurons of stacked experts are a multiple of this: torch multiplies by rows of 16 bytes."""


@dataclass(frozen=True, slots=True)
class Layer:
    """The weight of one prunable layer: its name, shape and which dimension is which.

    Args:
        name: the parameter's name in the model, e.g. ``"layer1.0.conv1.weight"``.
        shape: the weight's shape; ``(outputs, inputs, *kernel)``, or ``(inputs, outputs, *kernel)``
            when ``transposed``.
        transposed: True for transformers' Conv1D and for transposed convolutions, whose weights
            are stored inputs first.
        stacked: True for the packed experts of a mixture, ``(experts, outputs, inputs)``.
        block: the decoder block that it belongs to, if any.
        groups: of a transposed convolution, whose weight has ``outputs / groups``.
        coupled_outputs: True where single outputs mean nothing alone: the gates of recurrent
            layers, the queries, keys and values of attention.
        reads: what its inputs are: ``neurons`` of a feed-forward part, ``heads`` of an attention;
            empty where nothing is known.
        unit: neighbouring inputs that are one of these: 1 neuron, the query heads of one key head.

    Example:
        >>> Layer("conv.weight", (16, 8, 3, 3)).rows
        16
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    stacked: bool = False
    block: str = ""
    groups: int = 1
    coupled_outputs: bool = False
    reads: str = ""
    unit: int = 1

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def _stack(self) -> int:
        """How many matrices lie one behind the other: experts, or groups."""
        return self.shape[0] if self.stacked else self.groups

    @property
    def _kernel(self) -> tuple[int, ...]:
        return self.shape[self.stacked + 2 :]

    @property
    def rows(self) -> int:
        """Number of outputs (channels, neurons), of all experts when stacked."""
        return self._stack * self.shape[self.stacked + self.transposed]

    @property
    def inputs(self) -> int:
        """Size of the input dimension, per group for grouped convolutions."""
        return self.shape[self.stacked + (not self.transposed)] // self.groups

    @property
    def columns(self) -> int:
        """Weights per output: inputs times kernel positions."""
        return self.numel // max(self.rows, 1)

    @property
    def plain(self) -> bool:
        """Whether it multiplies what its module is given, as calibration sees it.

        Recurrent layers, attention and transposed convolutions do otherwise.
        """
        return not (self.coupled_outputs or (self.transposed and bool(self._kernel)))

    def flat(self, weight: Tensor) -> Tensor:
        """``[rows, columns]``, the inputs' kernels one after the other; a view where possible."""
        if self.transposed:
            weight = self._stacked(weight).transpose(1, 2)
        return weight.reshape(self.rows, self.columns)

    def unflat(self, matrix: Tensor) -> Tensor:
        """The inverse of `flat`."""
        if not self.transposed:
            return matrix.reshape(self.shape)
        outputs = self.rows // self._stack
        outputs_first = matrix.reshape(self._stack, outputs, self.inputs, *self._kernel)
        return outputs_first.transpose(1, 2).reshape(self.shape)

    def _stacked(self, weight: Tensor) -> Tensor:
        """``[stack, outputs, inputs, *kernel]``, or inputs before outputs when transposed."""
        sizes = self.shape[self.stacked :]
        return weight.reshape(self._stack, sizes[0] // self.groups, *sizes[1:])

    def matrix(self, weight: Tensor) -> Tensor:
        """``[rows, kernel positions * inputs]``, the input dimension innermost.

        Neighbours in a row are then neighbouring inputs, which is what N:M and block kernels
        group (for convolutions: the layout KRSC).
        """
        if not self._kernel:
            return self.flat(weight)
        kernels = self.flat(weight).reshape(self.rows, self.inputs, *self._kernel)
        return kernels.movedim(1, -1).reshape(self.rows, self.columns)

    def unmatrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if not self._kernel:
            return self.unflat(matrix)
        inner = matrix.reshape(self.rows, *self._kernel, self.inputs).movedim(-1, 1)
        return self.unflat(inner if not self.transposed else inner.reshape(self.rows, -1))

    def split(self) -> list[Layer]:
        """One layer for each of the stacked experts; itself when there is no stack."""
        if not self.stacked:
            return [self]
        one = replace(self, shape=self.shape[1:], stacked=False)
        return [replace(one, name=f"{self.name}.{i}") for i in range(self.shape[0])]


_WRAPPERS = ("DistributedDataParallel", "DataParallel", "AveragedModel")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel, AveragedModel or torch.compile, under its names."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in _WRAPPERS:
            inner = model.module
        if inner is None:
            return model
        assert isinstance(inner, nn.Module)
        model = inner


def inputs_first(module: nn.Module) -> bool:
    """Whether it is transformers' Conv1D, whose weight is stored inputs first.

    It is known by its name, so that transformers need not be imported.
    """
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def home_of(model: nn.Module, name: str) -> nn.Module:
    """The module of a model whose forward multiplies with the weight of that name.

    That is the module that holds it; attention does not call its last projection but reads it.
    """
    path = name.rpartition(".")[0]
    around = model.get_submodule(path.rpartition(".")[0])
    return around if isinstance(around, nn.MultiheadAttention) else model.get_submodule(path)


def __getattr__(name: str) -> Any:
    if name != "prunable":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from steppe.core.prunable import prunable

    warnings.warn(
        "steppe.core.layer.prunable is now steppe.core.prunable.prunable",
        DeprecationWarning,
        stacklevel=2,
    )
    return prunable


def by_block(layers: Mapping[str, Layer], names: Iterable[str]) -> dict[str, list[str]]:
    """The names of each decoder block's layers; a layer of none is alone under its own name.

    Args:
        layers: name -> layer.
        names: of those that are grouped, in the order in which they stay.

    Example:
        >>> a, b = Layer("0.q", (2, 2), block="0"), Layer("0.k", (2, 2), block="0")
        >>> by_block({"0.q": a, "0.k": b, "head": Layer("head", (2, 2))}, ["head", "0.q", "0.k"])
        {'head': ['head'], '0': ['0.q', '0.k']}
    """
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(layers[name].block or name, []).append(name)
    return groups
