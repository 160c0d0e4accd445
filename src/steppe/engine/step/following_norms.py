"""Which norm takes the outputs of which layer, as one pass shows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from steppe.core.given_tensors import GivenTensors
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
        layers = {x.name: x for x in self._layers}
        homes = {home_of(self._model, name): name for name in layers}
        vectors = [m for m in self._model.modules() if m not in homes and _vectors(m)]
        tensors = GivenTensors(homes, vectors)
        with tensors.watching():
            yield
        names = {id(p): name for name, p in self._model.named_parameters()}
        owners: dict[str, str] = {}
        for layer, module in tensors.pairs:
            if _of_outputs(module, layers[layer]):
                for p in module.parameters(recurse=False):
                    owners.setdefault(names[id(p)], layer)
        self.owners = owners


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
