"""A language model computed as if some dimensions of its residual stream were not there."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.llm.structured.residual import SCALE


@contextlib.contextmanager
def narrow(
    model: nn.Module,
    norms: Sequence[str],
    kept: Tensor,
    scales: Mapping[str, tuple[float, float]] | None = None,
) -> Iterator[None]:
    """Norms take their mean over the dimensions that stay; the others they give as zero.

    Where all else writes zero into the dimensions that go, the model then computes what it does
    without them.

    Args:
        model: in its old shapes.
        norms: names of the norms of its residual stream in it.
        kept: ``[hidden size]`` booleans.
        scales: name of an embedding -> its factor now and the one that it has meanwhile.
    """
    places = kept.nonzero().flatten()
    modules = [model.get_submodule(name) for name in norms]
    embeddings = {model.get_submodule(n): pair for n, pair in (scales or {}).items()}
    try:
        for norm in modules:
            assert "forward" not in vars(norm), "somebody else has put one there"
            norm.forward = _over(norm, places)
        for embedding, (_, factor) in embeddings.items():
            getattr(embedding, SCALE).fill_(factor)
        yield
    finally:
        for norm in modules:
            vars(norm).pop("forward", None)
        for embedding, (factor, _) in embeddings.items():
            getattr(embedding, SCALE).fill_(factor)


def narrowed_norm(norm: nn.Module, places: Tensor) -> Any:
    """A norm over some of its dimensions, with its own scales and shifts of those.

    Args:
        norm: in memory.
        places: of the dimensions.
    """
    small: Any = copy.copy(norm)
    vars(small).pop("forward", None)
    small._parameters = {
        n: None if p is None else nn.Parameter(p.detach()[places.to(p.device)], requires_grad=False)
        for n, p in norm._parameters.items()
    }
    if hasattr(small, "normalized_shape"):
        small.normalized_shape = (len(places),)
    return small


def _over(norm: nn.Module, places: Tensor) -> Any:
    def forward(hidden: Tensor) -> Tensor:
        own = places.to(hidden.device)
        given: Tensor = type(norm).forward(narrowed_norm(norm, places), hidden[..., own])
        made = torch.zeros(hidden.shape, dtype=given.dtype, device=given.device)
        made[..., own] = given
        return made

    return forward


def scaled(norm: nn.Module, factor: float) -> None:
    """Let a norm give so many times as much of what it has normalised, in place.

    Some families multiply by their weight, others by 1 + their weight; which, is seen where the
    weight is zero. The shift stays.

    Args:
        norm: in memory.
        factor: by which it is multiplied.
    """
    weight = norm.weight
    assert isinstance(weight, Tensor)
    with torch.no_grad():
        zero: Any = copy.copy(norm)
        vars(zero).pop("forward", None)
        zero._parameters = {n: None if p is None else p * 0 for n, p in norm._parameters.items()}
        seen = torch.linspace(-1.0, 1.0, len(weight), device=weight.device, dtype=weight.dtype)
        offset = float(bool(type(norm).forward(zero, seen[None]).any()))
        weight.copy_(factor * (weight + offset) - offset)
