"""How far the outputs of a block's layers are from those of the dense ones."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import sizes_of
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.input_recorder import InputRecorder


def output_errors(block: BlockContext, dense: Mapping[str, Tensor]) -> dict[str, float]:
    """||x W' - x W0'||^2 / ||x W0'||^2 of each layer, x its inputs in the pruned model.

    What the layer's bias gained is part of x W'. Of the layers that these inputs reach.

    Args:
        block: the block, pruned.
        dense: piece name -> weight before.
    """
    run, pieces = block.run, block.pieces
    sums = {n: torch.zeros(2, dtype=torch.float64, device=run.blocks.device) for n in pieces}

    # not the recorder itself, which holds `see`: a cycle would keep the block in memory
    groups: Mapping[str, int] = {}

    def see(name: str, x: Tensor) -> None:
        layer, weight = pieces[name]
        old = layer.flat(dense[name])
        flat = x.detach().reshape(-1, x.shape[-1]).to(old.dtype)
        new = layer.flat(weight) - old
        both = [_product(flat, w, groups.get(name, 1)) for w in (new, old)]
        if name in block.shifts:
            both[0] += block.shifts[name]
        # the squares of a row in float32, those of all rows in float64
        lengths = [torch.linalg.vector_norm(x, dim=1, dtype=torch.float32) for x in both]
        sums[name] += torch.stack([x.double().square().sum() for x in lengths])

    with InputRecorder(block.weights, see) as recorder:
        groups = recorder.groups
        run.inputs.replay(block.index, recorder, windows=run.config.measure)
    ranks.add_up(sums.values())
    return {n: float(s[0] / s[1]) for n, s in sums.items() if float(s[1]) > 0}


def _product(x: Tensor, weight: Tensor, groups: int) -> Tensor:
    """x W', of a convolution with groups the outputs of each from its own inputs."""
    if groups == 1:
        return torch.mm(x, weight.t())
    apart = torch.bmm(x.view(groups, -1, x.shape[1]), weight.view(groups, -1, x.shape[1]).mT)
    return apart.transpose(0, 1).flatten(1)


def layer_row(
    block: BlockContext,
    layer: Layer,
    mask: Tensor,
    errors: Mapping[str, float],
    solving: Mapping[str, float],
) -> dict[str, Any]:
    """A layer's row of the record.

    Args:
        block: the block that it is in.
        layer: which.
        mask: of the layer's shape, True = kept.
        errors: piece name -> output error.
        solving: piece name -> seconds that its solver took; empty when the block was optimised.
    """
    names = [p.name for p in layer.split()]
    count, structure = block.counts[layer.name], block.run.method.structure
    units = sizes_of(block.run.method, [layer])[layer.name]
    kept = int(structure.groups(mask, layer).any(-1).sum())
    assert units - kept >= count, f"{layer.name}: {units - kept} units zeroed, not {count}"
    row: dict[str, Any] = {
        "name": layer.name,
        "shape": list(layer.shape),
        "sparsity_asked": count / units,
        "sparsity_before": block.zeros[layer.name] / layer.numel,
        "sparsity_reached": block.zeros_of(layer) / layer.numel,
    }
    known = [errors[n] for n in names if n in errors]
    if known:
        row["output_error"] = sum(known) / len(known)
    if solving:
        row["seconds"] = round(sum(solving[n] for n in names), 4)
    return row
