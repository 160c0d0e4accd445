"""Which layers read neurons or heads, and what computes these."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.removal.mixtures import mixtures_of
from steppe.removal.transformer_groups import tied_names
from steppe.removal.transformer_patterns import sublayers_of

READS = {"channel": "neurons", "head": "heads"}
"""Kind of a group -> what a layer that reads it is said to read."""


def groups_by_reader(model: nn.Module) -> dict[str, Group]:
    """The weight that reads a group of neurons or heads -> the group.

    Args:
        model: of transformers, or a block of one: names are as it has them.
    """
    tied, readers = tied_names(model), {}
    for sublayer in sublayers_of(model):
        group = sublayer.group(1)
        if not any(s.name in tied for s in group.slices):
            readers[next(s.name for s in group.slices if s.role == "input")] = group
    for mixture in mixtures_of(model):
        neurons = mixture.neurons()
        if neurons is not None:
            readers[neurons.slices[-1].name] = neurons
    return readers


def marked(model: nn.Module, layers: Sequence[Layer]) -> list[Layer]:
    """The layers, those that read neurons or heads knowing it.

    Args:
        model: whose they are.
        layers: of the model.
    """
    readers = _units_by_reader(model)
    return [replace(x, **readers[x.name]) if x.name in readers else x for x in layers]


def _units_by_reader(model: nn.Module) -> dict[str, dict[str, Any]]:
    """As `groups_by_reader`, what a layer says of its units; of one group at a time."""
    tied, readers = tied_names(model), dict[str, dict[str, Any]]()
    for sublayer in sublayers_of(model):
        group = sublayer.group(1)
        if not any(s.name in tied for s in group.slices):
            reads = next(s for s in group.slices if s.role == "input")
            in_order = torch.equal(reads.index.flatten(), torch.arange(reads.index.numel()))
            assert in_order, "the units of a layer lie beside each other"
            readers[reads.name] = {"reads": READS[group.kind], "unit": reads.index.shape[1]}
    for mixture in mixtures_of(model):
        if (name := mixture.reader) is not None:
            readers[name] = {"reads": READS["channel"], "unit": 1}
    return readers


def kept_units(layer: Layer, mask: Tensor) -> Tensor:
    """``[units]`` booleans: which units a layer still reads; those of one expert after the other.

    Args:
        layer: that reads them.
        mask: of its shape, True = kept.
    """
    masks = zip(layer.split(), mask if layer.stacked else [mask], strict=True)
    columns = torch.cat([piece.flat(own).any(0) for piece, own in masks])
    return columns.view(-1, layer.unit).any(1)


@torch.no_grad()
def silence(block: nn.Module, kept: Mapping[str, Tensor]) -> None:
    """Zero what computes the units that are gone, in place.

    Args:
        block: a decoder block.
        kept: weight that reads them, by its name in the block -> ``[units]`` booleans.
    """
    groups, named = groups_by_reader(block), dict(block.named_parameters())
    for reader, alive in kept.items():
        for s in groups[reader].slices:
            if s.role != "input":
                s.fill(named[s.name], ~alive, 0.0)
