"""The loss of a network as a function of one flat vector of its weights."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import isfinite

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from steppe.core.errors import SteppeError, unknown

Batches = Sequence[tuple[Tensor, Tensor]]
Loss = Callable[[Tensor, Tensor], Tensor]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """A context in which every module is in eval mode (stored batch-norm statistics, no dropout).

    Example:
        >>> model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2)).train()
        >>> with evaluating(model): model[0].training
        False
        >>> model[0].training
        True
    """
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        # module by module: a user may have frozen some of them on purpose
        for module, mode in modes.items():
            module.training = mode


def _coordinates(
    named: dict[str, nn.Parameter], masks: Mapping[str, Tensor] | None
) -> list[Tensor | None]:
    """For each parameter the flat indices that may move; None: all of them."""
    masks = masks or {}
    for name, mask in masks.items():
        if name not in named:
            raise unknown("parameter in masks", name, named)
        if mask.shape != named[name].shape or mask.dtype != torch.bool:
            raise SteppeError(
                "a mask must be boolean and shaped like its parameter",
                got=f"{mask.dtype} {tuple(mask.shape)} for {name} {tuple(named[name].shape)}",
            )
    return [
        masks[name].reshape(-1).nonzero().squeeze(1).to(p.device) if name in masks else None
        for name, p in named.items()
    ]


class Surface:
    """L(w): the mean loss over fixed batches, in eval mode, in the coordinates that may move.

    ``L(w) = sum_b n_b loss(model(x_b), y_b) / sum_b n_b``, n_b the examples in a batch, so that a
    short last batch does not weigh more than it should. All parameters that require grad move
    (biases and norms too); a mask keeps the pruned ones where they are.

    Args:
        model: the network; use within `evaluating`.
        loss: (output, target) -> mean loss of the batch, a scalar.
        batches: (x, y) pairs; a list, as it is walked many times.
        masks: parameter name -> booleans, True = survives. Parameters not named move freely.

    Raises:
        SteppeError: no batch, nothing to move, an unknown or misshapen mask.

    Example:
        >>> model = nn.Linear(1, 1, bias=False)
        >>> batches = [(torch.ones(2, 1), torch.zeros(2, 1))]
        >>> Surface(model, nn.functional.mse_loss, batches).size
        1
    """

    def __init__(
        self,
        model: nn.Module,
        loss: Loss,
        batches: Batches,
        masks: Mapping[str, Tensor] | None = None,
    ) -> None:
        named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        if not isinstance(batches, Sequence) or not batches:
            raise SteppeError(
                "sharpness needs a list of at least one (x, y) batch",
                got=type(batches).__name__ if batches else "no batch",
                way_out="list(itertools.islice(loader, 8))",
            )
        self.model, self.loss, self.batches = model, loss, batches
        self.parameters = list(named.values())
        self.coordinates = _coordinates(named, masks)
        self.sizes = [
            p.numel() if index is None else len(index)
            for p, index in zip(self.parameters, self.coordinates, strict=True)
        ]
        self.size = sum(self.sizes)
        if not self.size:
            raise SteppeError(
                "sharpness needs at least one weight that may move",
                got="no parameter requires grad, or the masks keep none",
            )
        self.device = self.parameters[0].device
        # half precision would lose the small moves; the parameters themselves keep their dtype
        double = any(p.dtype == torch.float64 for p in self.parameters)
        self.dtype = torch.float64 if double else torch.float32
        self._examples = sum(len(x) for x, _ in batches)

    def _losses(self) -> Iterator[tuple[Tensor, float]]:
        for x, y in self.batches:
            out = self.model(x.to(self.device, non_blocking=True))
            yield self.loss(out, y.to(self.device, non_blocking=True)), len(x) / self._examples

    def weights(self) -> Tensor:
        """The present weights that may move, one vector."""
        return self.flat(self.parameters)

    def flat(self, tensors: Sequence[Tensor]) -> Tensor:
        """Tensors shaped like the parameters -> their moving coordinates, one vector."""
        moving = [
            t.detach().reshape(-1) if index is None else t.detach().reshape(-1)[index]
            for t, index in zip(tensors, self.coordinates, strict=True)
        ]
        return torch.cat([t.to(self.device, self.dtype) for t in moving])

    def _unflat(self, vector: Tensor) -> list[Tensor]:
        """A vector of the moving coordinates -> tensors like the parameters, zero elsewhere."""
        tensors = []
        pieces = torch.split(vector, self.sizes)
        for p, index, piece in zip(self.parameters, self.coordinates, pieces, strict=True):
            values = piece.to(p.device, p.dtype)
            full = values if index is None else p.new_zeros(p.numel()).index_copy_(0, index, values)
            tensors.append(full.reshape(p.shape).detach())
        return tensors

    def value(self) -> float:
        """L at the present weights."""
        with torch.no_grad():
            return sum(float(loss) * share for loss, share in self._losses())

    def value_and_gradient(self) -> tuple[float, Tensor]:
        """L and its gradient at the present weights; the parameters' ``.grad`` is untouched."""
        total, gradient = 0.0, torch.zeros(self.size, dtype=self.dtype, device=self.device)
        with torch.enable_grad():
            for loss, share in self._losses():
                total += float(loss.detach()) * share
                if loss.requires_grad:
                    grads = torch.autograd.grad(loss, self.parameters, materialize_grads=True)
                    gradient.add_(self.flat(grads), alpha=share)
        return total, gradient

    def hessian_product(self, vector: Tensor) -> Tensor:
        """H v at the present weights, by differentiating <gradient, v> once more."""
        directions = self._unflat(vector)
        product = torch.zeros(self.size, dtype=self.dtype, device=self.device)
        # the fused attention kernels have no second derivative
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            for loss, share in self._losses():
                if not loss.requires_grad:
                    continue
                grads = torch.autograd.grad(
                    loss, self.parameters, create_graph=True, materialize_grads=True
                )
                slope = sum((g * v).sum() for g, v in zip(grads, directions, strict=True))
                assert isinstance(slope, Tensor)
                if slope.requires_grad:  # not where the loss is linear: H = 0
                    seconds = torch.autograd.grad(slope, self.parameters, materialize_grads=True)
                    product.add_(self.flat(seconds), alpha=share)
        return product

    @contextmanager
    def perturbation(self) -> Iterator[Callable[[Tensor], None]]:
        """A context in which ``move(eps)`` sets the weights to w + eps; w returns bit for bit.

        A copy of w is restored; subtracting eps again would round.
        """
        original = [p.detach().clone() for p in self.parameters]

        @torch.no_grad()
        def move(eps: Tensor) -> None:
            for p, w, step in zip(self.parameters, original, self._unflat(eps), strict=True):
                p.copy_(w + step)

        try:
            yield move
        finally:
            with torch.no_grad():
                for p, w in zip(self.parameters, original, strict=True):
                    p.copy_(w)


def finite(value: float, what: str, way_out: str) -> float:
    """The value, if it is finite.

    Raises:
        SteppeError: NaN or infinite.

    Example:
        >>> finite(2.0, "the loss", "")
        2.0
    """
    if not isfinite(value):
        raise SteppeError(f"{what} must be finite", got=value, way_out=way_out)
    return value
