"""Weights that are no parameters: made from other tensors before each pass."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.prune import BasePruningMethod
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm


class OfSparsify(nn.Module):
    """What the parametrisations of an unfinished `steppe.sparsify` are known by."""


@dataclass(frozen=True)
class Derived:
    """A weight that is made from others.

    Args:
        tensor: its name in its module.
        shape: of the largest tensor that it is made from.
        maker: what makes it, e.g. ``weight_norm``.
        way_out: the call that makes a parameter of it again; ``{}`` stands for the module.
        of_sparsify: whether an unfinished sparsify makes it.
    """

    tensor: str
    shape: tuple[int, ...]
    maker: str
    way_out: str
    of_sparsify: bool = False


# hooks of the years before torch.nn.utils.parametrize; what each calls its weight
_HOOKS: tuple[tuple[type, str, str], ...] = (
    (WeightNorm, "name", "torch.nn.utils.remove_weight_norm({}, {tensor!r})"),
    (SpectralNorm, "name", "torch.nn.utils.remove_spectral_norm({}, {tensor!r})"),
    (BasePruningMethod, "_tensor_name", "torch.nn.utils.prune.remove({}, {tensor!r})"),
)
_PARTS = ("_orig", "_g", "_v")
"""How the names of the parameters end that those hooks make a weight from."""


def derived_weights(module: nn.Module) -> dict[str, Derived]:
    """Name in the module -> a weight that others make; the module's own, its children's left out.

    Example:
        >>> layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
        >>> derived_weights(layer)["weight"].maker
        'weight_norm'
    """
    return {d.tensor: d for d in (*_parametrized(module), *_hooked(module))}


def _parametrized(module: nn.Module) -> Iterator[Derived]:
    if not parametrize.is_parametrized(module):
        return
    assert isinstance(module.parametrizations, nn.ModuleDict)
    for tensor, makers in module.parametrizations.items():
        assert isinstance(makers, parametrize.ParametrizationList)
        first = type(makers[0]).__name__.lstrip("_")
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in first).lstrip("_")
        yield Derived(
            tensor,
            # not asked of the module: making a spectral-normed weight moves its buffers
            tuple(max(makers.parameters(recurse=False), key=Tensor.numel).shape),
            name,
            f"torch.nn.utils.parametrize.remove_parametrizations({{}}, {tensor!r})",
            any(isinstance(maker, OfSparsify) for maker in makers),
        )


def _hooked(module: nn.Module) -> Iterator[Derived]:
    for hook in module._forward_pre_hooks.values():
        for kind, attribute, way_out in _HOOKS:
            if isinstance(hook, kind):
                tensor = getattr(hook, attribute)
                shape = tuple(getattr(module, tensor).shape)
                how = way_out.replace("{tensor!r}", repr(tensor))
                yield Derived(tensor, shape, _name_of(hook), how)


def _name_of(hook: object) -> str:
    if isinstance(hook, BasePruningMethod):
        return "torch.nn.utils.prune"
    return "weight_norm" if isinstance(hook, WeightNorm) else "spectral_norm"


def is_part(name: str, derived: dict[str, Derived]) -> bool:
    """Whether a parameter of a module is what one of its weights is made from.

    Example:
        >>> layer = nn.utils.spectral_norm(nn.Linear(3, 2))
        >>> is_part("weight_orig", derived_weights(layer))
        True
    """
    return any(name == f"{tensor}{end}" for tensor in derived for end in _PARTS)
