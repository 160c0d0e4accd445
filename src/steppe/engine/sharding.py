"""A model split over processes: FSDP2, block by block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.engine import ranks


def shard(model: nn.Module, blocks: Sequence[str], device: torch.device) -> nn.Module:
    """Split weights, gradients and what the optimiser remembers over the processes, in place.

    Each block is gathered for its passes and given back after them; so is what lies outside.

    Args:
        model: on the CPU; its parameters become split ones.
        blocks: names of the modules that are gathered one at a time.
        device: of this process.

    Raises:
        SteppeError: there is one process.

    Source: torch.distributed.fsdp.fully_shard.
    """
    if ranks.world() < 2:
        raise SteppeError(
            "a model is split over several processes",
            got="--shard in one process",
            way_out="accelerate launch --num_processes 2 -m steppe with the same words, or leave "
            "--shard out",
        )
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device.type, (ranks.world(),))
    for name in blocks:
        fully_shard(model.get_submodule(name), mesh=mesh, reshard_after_forward=True)
    # the rest is given back too: its weights may change between two forward passes
    fully_shard(model, mesh=mesh, reshard_after_forward=True)
    return model.to(device)
