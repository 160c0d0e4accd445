"""What is prunable is decided here, and how a weight is seen as a matrix."""

from __future__ import annotations

from collections.abc import Sequence
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

    Example:
        >>> Layer("conv.weight", (16, 8, 3, 3)).rows
        16
    """

    name: str
    shape: tuple[int, ...]
    transposed: bool = False

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def rows(self) -> int:
        """Number of outputs (channels, neurons)."""
        return self.shape[1] if self.transposed else self.shape[0]

    @property
    def inputs(self) -> int:
        """Size of the input dimension, per group for grouped convolutions."""
        return self.shape[0] if self.transposed else self.shape[1]

    @property
    def columns(self) -> int:
        """Weights per output: inputs times kernel positions."""
        return self.numel // self.rows

    def flat(self, weight: Tensor) -> Tensor:
        """``[rows, columns]`` in the weight's own order; a view where the layout allows."""
        return weight.t() if self.transposed else weight.reshape(self.rows, -1)

    def unflat(self, matrix: Tensor) -> Tensor:
        """The inverse of `flat`."""
        return matrix.t() if self.transposed else matrix.reshape(self.shape)

    def matrix(self, weight: Tensor) -> Tensor:
        """``[rows, kernel positions * inputs]``, the input dimension innermost.

        Neighbours in a row are then neighbouring inputs, which is what N:M and block kernels
        group (for convolutions: the layout KRSC).
        """
        if self.transposed or weight.ndim == 2:
            return self.flat(weight)
        return weight.movedim(1, -1).reshape(self.rows, -1)

    def unmatrix(self, matrix: Tensor) -> Tensor:
        """The inverse of `matrix`."""
        if self.transposed or len(self.shape) == 2:
            return self.unflat(matrix)
        inner = (self.shape[0], *self.shape[2:], self.shape[1])
        return matrix.reshape(inner).movedim(-1, 1)


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

    The weights of Linear, Conv1d/2d/3d and transformers' Conv1D, first and last layer
    included; never biases, norms and embeddings. A language model's output head stays dense
    unless a pattern of ``include`` names it. A tied weight counts once.

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
    model = unwrap(model)
    head = getattr(model, "get_output_embeddings", lambda: None)()
    used: set[str] = set()
    candidates: list[tuple[str, nn.Module, bool]] = []
    taken: set[int] = set()
    for module_name, module in sorted(model.named_modules(), key=lambda item: item[0]):
        if not _is_prunable(module):
            continue
        name = f"{module_name}.weight" if module_name else "weight"
        wanted = [p for p in include if fnmatchcase(name, p) or fnmatchcase(module_name, p)]
        unwanted = [p for p in exclude if fnmatchcase(name, p) or fnmatchcase(module_name, p)]
        used.update(wanted, unwanted)
        if unwanted:
            taken.add(id(module.weight))
        elif wanted or not (include or module is head):
            candidates.append((name, module, bool(wanted)))
    embeddings = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    layers: dict[str, Layer] = {}
    weights: dict[str, nn.Parameter] = {}
    for name, module, named in candidates:
        weight = module.weight
        assert isinstance(weight, nn.Parameter), f"{name} is no parameter"
        if id(weight) in taken or (id(weight) in embeddings and not named):
            continue
        taken.add(id(weight))  # a second name of it is no second weight
        layers[name] = Layer(name, tuple(weight.shape), _is_transposed(module))
        weights[name] = weight
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
