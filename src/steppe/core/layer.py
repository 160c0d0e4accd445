"""What is prunable is decided here, and how a weight is seen as a matrix."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError

_KINDS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True, slots=True)
class Layer:
    """The weight of one prunable layer: its name, shape and which dimension is which.

    Args:
        name: the parameter's name in the model, e.g. ``"layer1.0.conv1.weight"``.
        shape: the weight's shape; ``(outputs, inputs, *kernel)``, or ``(inputs, outputs)``
            when ``transposed``.
        transposed: True for transformers' Conv1D, whose weight is stored inputs first.
        stacked: True for the packed experts of a mixture, ``(experts, outputs, inputs)``.
        block: the decoder block that it belongs to, if any.

    Example:
        >>> Layer("conv.weight", (16, 8, 3, 3)).rows
        16
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False
    stacked: bool = False
    block: str = ""

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def rows(self) -> int:
        """Number of outputs (channels, neurons), of all experts when stacked."""
        matrix = self.shape[self.stacked :]
        outputs = matrix[1] if self.transposed else matrix[0]
        return outputs * self.shape[0] if self.stacked else outputs

    @property
    def inputs(self) -> int:
        """Size of the input dimension, per group for grouped convolutions."""
        matrix = self.shape[self.stacked :]
        return matrix[0] if self.transposed else matrix[1]

    @property
    def columns(self) -> int:
        """Weights per output: inputs times kernel positions."""
        return self.numel // self.rows

    def flat(self, weight: Tensor) -> Tensor:
        """``[rows, columns]`` in the weight's own order; a view where the layout allows."""
        if self.transposed:
            weight = weight.transpose(-2, -1)
        return weight.reshape(self.rows, -1)

    def unflat(self, matrix: Tensor) -> Tensor:
        """The inverse of `flat`."""
        if not self.transposed:
            return matrix.reshape(self.shape)
        outputs_first = (*self.shape[:-2], self.shape[-1], self.shape[-2])
        return matrix.reshape(outputs_first).transpose(-2, -1)

    def matrix(self, weight: Tensor) -> Tensor:
        """``[rows, kernel positions * inputs]``, the input dimension innermost.

        Neighbours in a row are then neighbouring inputs, which is what N:M and block kernels
        group (for convolutions: the layout KRSC).
        """
        if self.transposed or self.stacked or weight.ndim == 2:
            return self.flat(weight)
        return weight.movedim(1, -1).reshape(self.rows, -1)

    def unmatrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if self.transposed or self.stacked or len(self.shape) == 2:
            return self.unflat(matrix)
        inner = (self.shape[0], *self.shape[2:], self.shape[1])
        return matrix.reshape(inner).movedim(-1, 1)

    def split(self) -> list[Layer]:
        """One layer for each of the stacked experts; itself when there is no stack."""
        if not self.stacked:
            return [self]
        return [
            Layer(f"{self.name}.{i}", self.shape[1:], self.transposed, block=self.block)
            for i in range(self.shape[0])
        ]


def _weights_of(module_name: str, module: nn.Module) -> Iterator[tuple[str, nn.Parameter, bool]]:
    """(name, parameter, stacked) of what is prunable in one module, children left out."""
    prefix = f"{module_name}." if module_name else ""
    if _is_prunable(module):
        weight = module.weight
        if not isinstance(weight, nn.Parameter):
            raise SteppeError(
                "prunable weights must be parameters",
                got=f"{prefix}weight, which is made from others: of an earlier sparsify?",
                way_out="finish() that one first, or build the model anew",
            )
        yield f"{prefix}weight", weight, False
    elif hasattr(module, "is_transposed") and hasattr(module, "has_gate"):
        # transformers packs the experts of a mixture into (experts, outputs, inputs)
        for name, weight in module.named_parameters(recurse=False):
            if weight.ndim == 3:
                yield prefix + name, weight, True


def _is_prunable(module: nn.Module) -> bool:
    # transformers' Conv1D is known by its name, so that transformers need not be imported
    return isinstance(module, _KINDS) or _is_transposed(module)


def _is_transposed(module: nn.Module) -> bool:
    return type(module).__name__ == "Conv1D" and hasattr(module, "nf")


def unwrap(model: nn.Module) -> nn.Module:
    """The model inside DistributedDataParallel or torch.compile, whose names are the real ones."""
    while True:
        inner = getattr(model, "_orig_mod", None)
        if inner is None and type(model).__name__ in (
            "DistributedDataParallel",
            "DataParallel",
        ):
            inner = model.module
        if inner is None:
            return model
        assert isinstance(inner, nn.Module)
        model = inner


def prunable(
    model: nn.Module, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], dict[str, nn.Parameter]]:
    """The weights that a method may make zero, in name order.

    The weights of Linear, Conv1d/2d/3d, transformers' Conv1D and the packed experts of its
    mixtures, first and last layer included; never biases, norms and embeddings. A language
    model's output head stays dense unless a pattern of ``include`` names it. A tied weight counts
    once.

    Args:
        model: any module; wrappers (DistributedDataParallel, compile) are looked through.
        include: shell patterns over weight or module names; when given, only what they match.
        exclude: shell patterns; what they match stays dense.

    Returns:
        The layers sorted by name, and name -> parameter.

    Raises:
        SteppeError: a pattern matches no prunable weight, or nothing is left.

    Example:
        >>> layers, _ = prunable(nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2)), exclude=["0"])
        >>> [layer.name for layer in layers]
        ['1.weight']
    """
    for name, patterns in (("include", include), ("exclude", exclude)):
        if isinstance(patterns, str):
            raise SteppeError(
                f"{name} is a list of patterns",
                got=repr(patterns),
                way_out=f"{name}=[{patterns!r}]",
            )
    model = unwrap(model)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    used: set[str] = set()
    candidates: list[tuple[str, nn.Parameter, Layer, bool]] = []
    taken: set[int] = set()
    for module_name, module in sorted(model.named_modules(), key=lambda item: item[0]):
        for name, weight, stacked in _weights_of(module_name, module):
            wanted = [p for p in include if fnmatchcase(name, p) or fnmatchcase(module_name, p)]
            unwanted = [p for p in exclude if fnmatchcase(name, p) or fnmatchcase(module_name, p)]
            used.update(wanted, unwanted)
            if unwanted:
                taken.add(id(weight))
            elif wanted or not (include or module is head):
                inputs_first = _is_transposed(module) or getattr(module, "is_transposed", False)
                layer = Layer(name, tuple(weight.shape), inputs_first, stacked)
                candidates.append((name, weight, layer, bool(wanted)))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers: dict[str, Layer] = {}
    weights: dict[str, nn.Parameter] = {}
    for name, weight, layer, named in candidates:
        if id(weight) in taken or (id(weight) in embeddings and not named):
            continue
        taken.add(id(weight))  # a second name of it is no second weight
        layers[name], weights[name] = layer, weight
    for pattern in (*include, *exclude):
        if pattern not in used:
            raise SteppeError(
                "a pattern must match the name of a prunable weight or module",
                got=repr(pattern),
                consequence="it would silently do nothing",
                way_out="names look like " + ", ".join(list(weights)[:3] or ["layer1.0.conv1"]),
            )
    if not layers:
        raise SteppeError(
            "something must be prunable",
            got=f"{type(model).__name__} with no Linear or convolution weight selected",
            way_out="check the include and exclude patterns",
        )
    return list(layers.values()), weights
