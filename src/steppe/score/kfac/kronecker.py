"""The Kronecker factors of each layer's Fisher matrix, F ~ A (x) G, gathered while training.

With a the inputs of a layer (1 appended where it has a bias) and d the gradients of one sample's
loss at its outputs, n samples and T positions each,

    A = 1/n sum over samples and positions of a a',
    G = 1/(n T) sum over samples and positions of d d'.

For a convolution a is an unfolded patch and T the number of output positions: A is summed and G
averaged over them, which is KFC's convention (Grosse & Martens 2016). A linear layer
on ``[batch, tokens, channels]`` is a 1x1 convolution, its tokens are positions; so are several
calls of one module. Each group of a grouped convolution is a layer of its own.

The loss must be a mean over the samples, and its labels are the data's: this is the **empirical**
Fisher matrix. The true one samples labels from the model's own prediction, which a closure that
only returns a loss does not tell. A sum instead of a mean scales all layers alike.

Source: Martens & Grosse 2015 (K-FAC); Grosse & Martens 2016 (KFC).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.norm import global_norm
from steppe.core.statistic import STATISTICS, Statistic

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_PIECE = 2**24
"""Entries of unfolded patches that exist at a time."""


def patches(x: Tensor, module: nn.Conv1d | nn.Conv2d | nn.Conv3d) -> Tensor:
    """What the convolution multiplies with its kernel, at each output position.

    Args:
        x: ``[batch, channels, *size]``.
        module: any stride, dilation, padding (mode) and groups.

    Returns:
        ``[batch * positions, groups, columns]``, columns in the order of ``weight[0].flatten()``.

    Example:
        >>> patches(torch.ones(2, 3, 5, 5), nn.Conv2d(3, 4, 3)).shape
        torch.Size([18, 1, 27])
    """
    spans = [d * (k - 1) for d, k in zip(module.dilation, module.kernel_size, strict=True)]
    if module.padding == "same":  # the odd one goes to the end, as in torch
        sides = [(span // 2, span - span // 2) for span in spans]
    else:
        each = [0] * len(spans) if module.padding == "valid" else module.padding
        sides = [(int(p), int(p)) for p in each]
    pads = [p for pair in reversed(sides) for p in pair]
    if any(pads):
        mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
        x = functional.pad(x, pads, mode=mode)
    for i, (span, step) in enumerate(zip(spans, module.stride, strict=True)):
        x = x.unfold(2 + i, span + 1, step)[..., :: module.dilation[i]]
    # [batch, channels, *positions, *kernel]
    x = x.movedim(1, 1 + len(spans))
    columns = math.prod(x.shape[1 + len(spans) :]) // module.groups
    return x.reshape(-1, module.groups, columns)


@dataclass
class _Sum:
    """Of one layer in one step: a sum over how many rows, of how many samples."""

    value: Tensor
    size: int
    rows: int = 0
    samples: int = 0


class _OfPasses(Statistic):
    """Sums over each layer's inputs and over the gradients at its outputs.

    Every layer's input is held until its gradient comes.
    """

    product: ClassVar[str]
    """What is summed, as an einsum of rows ``[n, groups, size]`` with themselves."""

    def _reads(self, inputs_first: bool) -> tuple[bool, ...]:
        """Whether a layer's inputs (True), its gradients (False) or both are summed."""
        raise NotImplementedError

    def _before(self, module: nn.Module, x: Tensor) -> Tensor:
        """What of a layer's input is unfolded."""
        return x

    def _new(self, sums: dict[tuple[str, bool], _Sum]) -> dict[str, Tensor]:
        """(weight name, whether of inputs) -> means, to the values of one step."""
        raise NotImplementedError

    @classmethod
    def gathers(cls, layer: Layer, module: nn.Module) -> bool:
        usual = isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or hasattr(module, "nf")
        return usual and not layer.stacked

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        """Hook the layers.

        Raises:
            SteppeError: a weight is not that of a linear layer or a convolution.
        """
        self._on = False
        self._sums: dict[tuple[str, bool], _Sum] = {}
        self._modules: dict[str, nn.Module] = {}
        self._numel: dict[str, int] = {}
        for name, (layer, module) in modules.items():
            if len(layer.shape) < 2:  # norms and biases of coupled channels
                continue
            inputs_first = layer.transposed or hasattr(module, "nf")  # transformers' Conv1D
            if not self.gathers(layer, module):
                raise SteppeError(
                    "Kronecker factors are those of linear layers and convolutions",
                    got=f"{name} of a {type(module).__name__}",
                    way_out=f"exclude {name}, or choose another score",
                )
            self._modules[name], self._numel[name] = module, layer.numel
            hook = self._hook(name, module, self._reads(inputs_first))
            module.register_forward_hook(hook, with_kwargs=True)

    def _hook(self, name: str, module: nn.Module, reads: tuple[bool, ...]) -> Any:
        @torch.no_grad()
        def take(x: Tensor, gradient: Tensor) -> None:
            x, gradient = self._before(module, _batched(module, x)), _batched(module, gradient)
            for inputs in reads:
                for rows in (_inputs if inputs else _gradients)(module, x, gradient):
                    self._add((name, inputs), rows)
                self._sums[name, inputs].samples += len(gradient)

        def hook(_: nn.Module, args: Any, kwargs: dict[str, Any], output: Tensor) -> None:
            if self._on and output.requires_grad:
                x = (args[0] if args else next(iter(kwargs.values()))).detach()
                # both factors wait for the gradient: a pass without one, as that of activation
                # checkpointing, counts in neither
                output.register_hook(lambda gradient: take(x, gradient))

        return hook

    def _add(self, key: tuple[str, bool], rows: Tensor) -> None:
        # a product of two small halves is zero
        rows = rows if rows.dtype == torch.float64 else rows.float()
        value = torch.einsum(self.product, rows, rows)
        total = self._sums.get(key)
        if total is None:
            total = self._sums[key] = _Sum(value, rows.shape[-1])
        else:
            total.value += value
        total.rows += len(rows)

    def begin(self) -> None:
        self._sums.clear()  # of a step that overflowed, which was not observed

    def active(self, on: bool) -> None:
        self._on = on

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        # as with statistics of gradients, only layers whose weights have one
        sums = {key: s for key, s in sorted(self._sums.items()) if key[0] in grads}
        self._sums.clear()
        if not sums:
            return
        # where a layer is called more often, or on tokens in a row, these are positions
        samples = min(s.samples for s in sums.values())
        scale = self._scale(grads)
        for (_, inputs), s in sums.items():
            # a mean loss makes a gradient 1/samples of that of its sample's own loss
            s.value *= 1.0 / samples if inputs else samples**2 / (s.rows * scale**2)
        if dist.is_available() and dist.is_initialized():
            # gradients of weights arrive averaged over the ranks, these do not
            for s in sums.values():
                dist.all_reduce(s.value)
                s.value /= dist.get_world_size()
        self.mean_of(self._new(sums))

    def _scale(self, grads: dict[str, Tensor]) -> float:
        """What a GradScaler multiplied the loss with; 1 without one.

        The statistic is not told, but it sees the weights' gradients both ways: scaled in the
        modules, unscaled in ``grads``.
        """
        pairs = [(m.weight.grad, grads[n]) for n, m in self._modules.items() if n in grads]
        both = [(s, g) for s, g in pairs if isinstance(s, Tensor) and s is not g]
        if not both:
            return 1.0
        scaled, plain = (float(global_norm(list(side))) for side in zip(*both, strict=True))
        return scaled / plain if plain > 0 else 1.0


def _batched(module: nn.Module, x: Tensor) -> Tensor:
    """With a batch dimension, of one where it has none."""
    single = module.weight.ndim - 1 if isinstance(module, _CONVOLUTIONS) else 1
    return x[None] if x.ndim == single else x


def _gradients(module: nn.Module, x: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """d as ``[rows, groups, outputs / groups]``."""
    groups = 1
    if isinstance(module, _CONVOLUTIONS):
        gradient, groups = gradient.movedim(1, -1), module.groups
    yield gradient.reshape(-1, groups, gradient.shape[-1] // groups)


def _inputs(module: nn.Module, x: Tensor, gradient: Tensor) -> Iterator[Tensor]:
    """a as ``[rows, groups, columns]``, with a 1 at the end for the bias, a piece at a time."""
    pieces: Iterator[Tensor] = iter([x.reshape(-1, 1, x.shape[-1])])
    if isinstance(module, _CONVOLUTIONS):
        convolution, each = module, gradient[0, 0].numel() * module.weight[0].numel()
        parts = x.split(max(1, _PIECE // max(each * module.groups, 1)))
        pieces = (patches(part, convolution) for part in parts)
    for piece in pieces:
        yield functional.pad(piece, (0, 1), value=1.0) if module.bias is not None else piece


class KroneckerFactor(_OfPasses):
    """One of the two factors; which is A depends on how the weight is stored.

    Values are ``[groups, size, size]``. The factor of inputs has one more row and column, the last,
    where the layer has a bias. Memory is that of the values, during a step once more.
    """

    product = "ngi,ngj->gij"
    first: ClassVar[bool]
    """Whether it is the factor of the weight's first dimension, or of all others flattened."""

    def _reads(self, inputs_first: bool) -> tuple[bool, ...]:
        return (self.first == inputs_first,)

    def _new(self, sums: dict[tuple[str, bool], _Sum]) -> dict[str, Tensor]:
        return {name: s.value for (name, _), s in sums.items()}


@STATISTICS.register("kfac_rows")
class KfacRows(KroneckerFactor):
    """The factor of the weight's first dimension: G, or A where inputs come first."""

    name = "kfac_rows"
    first = True

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        return (1, weight[0], weight[0])


@STATISTICS.register("kfac_columns")
class KfacColumns(KroneckerFactor):
    """The factor of the weight's other dimensions, flattened: A, or G where inputs come first."""

    name = "kfac_columns"
    first = False

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        columns = math.prod(weight[1:])
        return (1, columns, columns)


@STATISTICS.register("kfac_mean")
class KfacMean(_OfPasses):
    """Root of the mean eigenvalue of the network's Fisher matrix, the same for every weight.

    That is sqrt(sum of tr A tr G / sum of dim A dim G), over all layers.
    """

    name = "kfac_mean"
    product = "ngi,ngi->g"

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        return (1,)

    def _reads(self, inputs_first: bool) -> tuple[bool, ...]:
        return (True, False)

    def _before(self, module: nn.Module, x: Tensor) -> Tensor:
        if not isinstance(module, _CONVOLUTIONS):
            return x
        # squares are summed over a group's channels first, so that there is less to unfold
        full = x if x.dtype == torch.float64 else x.float()
        per_group: Tensor = full.unflatten(1, (module.groups, -1)).norm(dim=2)
        return per_group

    def _new(self, sums: dict[tuple[str, bool], _Sum]) -> dict[str, Tensor]:
        names = sorted({name for name, _ in sums})
        pairs = [(sums[name, True], sums[name, False]) for name in names]
        home = pairs[0][0].value.device
        total = torch.stack([(a.value * g.value).sum().to(home) for a, g in pairs]).sum()
        modules = [self._modules[name] for name in names]
        outputs = [g.value.numel() * g.size for _, g in pairs]
        biases = sum(n for n, m in zip(outputs, modules, strict=True) if m.bias is not None)
        size = biases + sum(self._numel[name] for name in names)
        root = (total / size).sqrt().reshape(1)
        return {name: root.to(sums[name, True].value.device, copy=True) for name in names}
