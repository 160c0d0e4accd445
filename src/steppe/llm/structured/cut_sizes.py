"""How many parameters and bytes a cut leaves of a language model, from shapes alone."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

from torch import nn

from steppe.core.layer import STACKED
from steppe.core.neurons import beside
from steppe.llm.model import StreamedModel
from steppe.llm.structured.cut import Cut, stream_of
from steppe.llm.structured.shape import Shape


def sizes(
    model: StreamedModel, before: nn.Module, cut: Cut, family: str | None = None
) -> dict[str, int]:
    """``parameters`` that a cut leaves of a model, and their ``bytes``; what is tied counts once.

    Args:
        model: as it is stored.
        before: without weights, perhaps with biases that the stored one has not.
        cut: what stays.
        family: as which it is written, see `steppe.llm.structured.family`.
    """
    stream = None if cut.hidden is None else stream_of(model, cut.hidden, family)
    stays = cut.plan(before, stream).stays
    gone = tuple(f"{name}." for name in model.names if name not in cut.blocks)
    parameters = {name for name, _ in before.named_parameters(remove_duplicate=False)}
    own = {name for name, _ in model.model.named_parameters(remove_duplicate=False)}
    found = {"parameters": 0, "bytes": 0}
    stored = before.state_dict()  # with the buffers that are stored
    for name in sorted(model.stored_names(stored) & stored.keys()):
        if name.startswith(gone):
            continue
        shape = list(stored[name].shape)
        for dim, index in stays.get(name, {}).items():
            shape[dim] = index.shape[-1]
        added = name in parameters and name not in own
        dtype = model.stored_dtype(beside(name, "weight") if added else name)
        found["parameters"] += math.prod(shape) * (name in parameters)
        found["bytes"] += math.prod(shape) * dtype.itemsize
    return found


def in_bytes(whole: Shape, stored: Callable[[Shape], int]) -> Shape:
    """A shape that counts bytes in place of parameters, however its tensors are stored.

    What a block, a neuron or a head takes, models tell that have one less, or of stacked experts
    the least that can go.

    Args:
        whole: the shape of the whole model.
        stored: bytes of a model of a shape, with fewer blocks, neurons or heads.

    Returns:
        A shape whose ``bytes``, resized, are those of a model of that size.

    Example:
        >>> tiny = Shape(blocks=2, neurons=20, heads=2, queries_per_key=1, head_size=6, hidden=12,
        ...     vocabulary=26, per_neuron=36, per_head=288, per_block=24, outside=636)
        >>> priced = in_bytes(tiny, lambda shape: 100 + shape.blocks * (7 + 3 * shape.neurons))
        >>> priced.bytes, priced.resized(blocks=1, neurons=10).bytes
        (234, 137)
    """
    every = stored(whole)
    one = {}
    for kind in ("blocks", "neurons", "heads"):
        count = getattr(whole, kind)
        multiple = STACKED if kind == "neurons" and whole.experts else 1
        fewer = (count - 1) // multiple * multiple
        lost = every - stored(whole.resized(**{kind: fewer})) if fewer else 0
        one[kind] = lost // (count - fewer)
    block = one["blocks"] or every  # of a single block that stays all counts as its own
    neuron = one["neurons"] // (whole.blocks * max(whole.experts, 1))
    head = one["heads"] // whole.blocks
    inside = whole.neurons * neuron * max(whole.experts, 1) + whole.heads * head
    return replace(
        whole,
        per_neuron=neuron,
        per_head=head,
        per_expert=0,
        per_block=block - inside,
        outside=every - whole.blocks * block,
        width=1,
    )
