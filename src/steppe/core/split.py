"""Tensors that are split over processes (FSDP2's DTensor): parts, wholes, sums over all of them.

torch's module for them takes long to import, so that a tensor is asked for what it has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steppe.core.norm import global_norm


def is_split(tensor: Tensor) -> bool:
    """Whether a process holds only a part of it.

    Example:
        >>> is_split(torch.ones(2))
        False
    """
    return hasattr(tensor, "full_tensor")


def part_of(tensor: Tensor) -> Tensor:
    """This process's part of a tensor, which shares its memory; all of one that is not split.

    Example:
        >>> part_of(torch.ones(2))
        tensor([1., 1.])
    """
    split: Any = tensor
    part: Tensor = split.to_local() if is_split(tensor) else tensor
    return part


def whole_of(tensor: Tensor) -> Tensor:
    """All of a tensor, gathered from the processes; every one of them must ask for it."""
    split: Any = tensor
    whole: Tensor = split.full_tensor() if is_split(tensor) else tensor
    return whole


def like(part: Tensor, tensor: Tensor) -> Tensor:
    """A part as a tensor that is split as another one is; nothing is sent."""
    if not is_split(tensor) or is_split(part):
        return part
    from torch.distributed.tensor import DTensor

    split: Any = tensor
    made: Tensor = DTensor.from_local(
        part,
        split.device_mesh,
        split.placements,
        run_check=False,
        shape=split.shape,
        stride=split.stride(),
    )
    return made


def own_rows(whole: Tensor, tensor: Tensor) -> Tensor:
    """Of a whole tensor the rows that this process holds of one that is split by rows."""
    split: Any = tensor
    parts = whole.chunk(split.device_mesh.size(), 0)
    rank = split.device_mesh.get_local_rank()
    return parts[rank] if rank < len(parts) else whole[:0]


def parts_in(tree: Any) -> Any:
    """A state (dicts, lists, tuples) with this process's parts in the place of split tensors."""
    if isinstance(tree, Tensor):
        return part_of(tree.detach())
    if isinstance(tree, Mapping):
        return {key: parts_in(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(parts_in(value) for value in tree)
    return tree


@torch.no_grad()
def load_parts(model: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Parts that `parts_in` gave of a model's state, back into it.

    Raises:
        KeyError, RuntimeError: they are of another model.
    """
    for name, tensor in model.state_dict().items():
        own = part_of(tensor)
        if own.shape != state[name].shape:
            raise RuntimeError(f"{name} {tuple(state[name].shape)}, here {tuple(own.shape)}")
        own.copy_(state[name])


def whole_state(model: nn.Module, keep: bool) -> dict[str, Tensor]:
    """A model's state, gathered tensor by tensor to the CPU where there are split ones.

    Args:
        model: all processes must ask for it.
        keep: whether this process wants it; else it gets nothing.
    """
    state: dict[str, Tensor] = {}
    gathered: dict[int, Tensor] = {}  # what is tied is gathered once, and stays tied
    for name, tensor in model.state_dict().items():
        if not is_split(tensor):
            state[name] = tensor
            continue
        key = part_of(tensor).data_ptr() if part_of(tensor).numel() else hash(name)
        if key not in gathered:
            whole = whole_of(tensor)
            gathered[key] = whole.cpu() if keep else whole[:0]
        state[name] = gathered[key]
    return state if keep else {}


class Alone:
    """Counts and norms of tensors that each process holds whole."""

    def total(self, number: int) -> int:
        """A sum over the processes' parts."""
        return number

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        """The L2 norm of all tensors together."""
        return global_norm(tensors)


class Together(Alone):
    """The same of tensors of which each process holds a part.

    Args:
        tensor: one that is split.
    """

    def __init__(self, tensor: Tensor) -> None:
        split: Any = tensor
        self._group, self._device = split.device_mesh.get_group(), tensor.device

    def total(self, number: int) -> int:
        sums = torch.tensor(number, device=self._device)
        dist.all_reduce(sums, group=self._group)
        return int(sums)

    def norm(self, tensors: Sequence[Tensor]) -> Tensor:
        squares = global_norm(tensors).double().square()
        dist.all_reduce(squares, group=self._group)
        return squares.sqrt()


def over(tensors: Iterable[Tensor]) -> Alone:
    """How counts of these tensors become those of all processes."""
    split = next((t for t in tensors if is_split(t)), None)
    return Alone() if split is None else Together(split)
