"""Which norm takes the outputs of which layer, as one pass shows."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer, home_of

_OVER_FEATURES = (nn.LayerNorm, nn.RMSNorm)


class FollowingNorms:
    """The vectors that scale or shift the outputs of layers: those of norms that come straight
    after them.

    A norm is any module that has a number, or several, for each output and nothing else. What a
    module is given must be the very tensor that the layer returned.

    Args:
        model: not wrapped.
        layers: of it.
    """

    def __init__(self, model: nn.Module, layers: Sequence[Layer]) -> None:
        self._model = model
        self._layers = [x for x in layers if not (x.coupled_outputs or x.stacked)]
        self.owners: dict[str, str] | None = None
        """Parameter -> layer; None before the first pass."""

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look at a pass, if none was looked at; it is run without torch.compile."""
        if self.owners is not None:
            yield
            return
        owners: dict[str, str] = {}
        with ExitStack() as stack:
            if "torch._dynamo" in sys.modules:
                stack.enter_context(torch.compiler.set_stance("force_eager"))
            for hook in self._hooks(owners):
                stack.callback(hook.remove)
            yield
        self.owners = owners

    def _hooks(self, owners: dict[str, str]) -> Iterator[Any]:
        given: dict[int, tuple[weakref.ref[Tensor], Layer]] = {}
        homes = {home_of(self._model, x.name): x for x in self._layers}
        names = {id(p): name for name, p in self._model.named_parameters()}

        def returned(module: nn.Module, _: Any, output: Any) -> None:
            if isinstance(output, Tensor):
                given[id(output)] = weakref.ref(output), homes[module]

        def takes(module: nn.Module, args: tuple[Any, ...]) -> None:
            before = given.get(id(args[0])) if args else None
            if before is None:
                return
            tensor, layer = before
            if tensor() is args[0] and _of_outputs(module, layer):
                for p in module.parameters(recurse=False):
                    owners.setdefault(names[id(p)], layer.name)

        for module in self._model.modules():
            if module in homes:
                yield module.register_forward_hook(returned)
            elif _vectors(module):
                yield module.register_forward_pre_hook(takes)


def _vectors(module: nn.Module) -> bool:
    """Whether its own parameters are vectors of one length."""
    shapes = {tuple(p.shape) for p in module.parameters(recurse=False)}
    return len(shapes) == 1 and len(next(iter(shapes))) == 1


def _of_outputs(module: nn.Module, layer: Layer) -> bool:
    """Whether the vectors have an entry for each of the layer's outputs."""
    own = next(module.parameters(recurse=False))
    # of a convolution these norms are over the width of the image
    over_width = isinstance(module, _OVER_FEATURES) and len(layer.shape) > 2
    return len(own) == layer.rows and not over_width
