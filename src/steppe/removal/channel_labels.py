"""Numbered labels for the channels of every tensor of a model, and which of them are coupled."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn

from steppe.core.group import Group, Slice

Labels = NDArray[np.int64]
"""The label of each position along one dimension of a tensor."""

FIXED = -1
"""A position without a label, whose size is written in the model's code: it cannot be removed."""
PADDING = -2
"""Zeros that a module puts around its channels; surgery can set how many."""

_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_MATRICES = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


def roles(module: nn.Module, name: str, ndim: int, is_buffer: bool) -> tuple[str | None, ...]:
    """What each dimension of a module's own tensor is to a channel; None: nothing.

    Example:
        >>> roles(nn.Conv2d(2, 3, 1), "weight", 4, False)
        ('output', 'input', None, None)
    """
    if is_buffer:
        return ("buffer",) * ndim
    outputs_last = isinstance(module, _TRANSPOSED) or hasattr(module, "nf")
    if isinstance(module, _MATRICES) or outputs_last:
        if name == "weight":
            pair = ("input", "output") if outputs_last else ("output", "input")
            return (*pair, *(None,) * (ndim - 2))
        return ("bias",) * ndim
    if isinstance(module, nn.RNNBase | nn.RNNCellBase) and not getattr(module, "proj_size", 0):
        return ("output", "input") if ndim == 2 else ("bias",) * ndim
    if isinstance(module, nn.Embedding | nn.EmbeddingBag):
        return (None, "output")
    return ("norm",) * ndim


class ChannelLabels:
    """One label for each position along each dimension of a model's tensors.

    Labels that are coupled must be removed together; labels that are fixed must stay.

    Args:
        model: whose parameters and buffers get labels, a tied one once.
    """

    def __init__(self, model: nn.Module) -> None:
        self.dimensions: list[tuple[str, int, str]] = []
        """(tensor, dimension, role) of each labelled dimension."""
        self.first_label: list[int] = []
        """Of each labelled dimension; its labels are consecutive."""
        self.of_tensor: dict[int, list[Labels | None]] = {}
        """id of a parameter or buffer -> labels of its dimensions."""
        self.tensors: list[Tensor] = []
        """The labelled ones; kept, as an id may be used again after its tensor is gone."""
        self.count = 0
        for module_name, module in model.named_modules():
            prefix = f"{module_name}." if module_name else ""
            for name, tensor, is_buffer in _own_tensors(module):
                if id(tensor) not in self.of_tensor:
                    self.tensors.append(tensor)
                    tensor_roles = roles(module, name, tensor.ndim, is_buffer)
                    self.of_tensor[id(tensor)] = self._number(prefix + name, tensor, tensor_roles)
        role_of = [role for _, _, role in self.dimensions]
        sizes = np.diff([*self.first_label, self.count])
        numbers = np.arange(len(self.dimensions), dtype=np.int64)
        self.dimension_of = np.repeat(numbers, sizes)
        """Of each label, the number of its dimension."""
        self.is_input, self.is_output = (
            np.repeat(np.array([role == wanted for role in role_of], dtype=bool), sizes)
            for wanted in ("input", "output")
        )
        self.couplings: list[tuple[Labels, Labels]] = []
        self.fixed: list[tuple[Labels, str]] = []
        """Labels that must stay, and why."""

    def _number(
        self, name: str, tensor: Tensor, tensor_roles: tuple[str | None, ...]
    ) -> list[Labels | None]:
        labels: list[Labels | None] = []
        for dim, (size, role) in enumerate(zip(tensor.shape, tensor_roles, strict=True)):
            if role is None or size < 2:  # the only channel of a dimension is never removed
                labels.append(None)
                continue
            self.dimensions.append((name, dim, role))
            self.first_label.append(self.count)
            labels.append(np.arange(self.count, self.count + size, dtype=np.int64))
            self.count += size
        return labels

    def fix(self, labels: Labels | None, reason: str) -> None:
        """These channels must stay."""
        if labels is not None and (labels >= 0).any():
            self.fixed.append((labels[labels >= 0], reason))

    def couple(self, a: Labels | None, b: Labels | None, where: str = "") -> Labels | None:
        """Couple the channels at the same positions; the labels of the result."""
        if a is None or b is None:
            labelled = b if a is None else a
            self.fix(labelled, f"meets a tensor whose size is fixed{where}")
            return labelled
        both = (a >= 0) & (b >= 0)
        if both.any():
            self.couplings.append((a[both], b[both]))
        self.fix(a[b == FIXED], f"meets a tensor whose size is fixed{where}")
        self.fix(b[a == FIXED], f"meets a tensor whose size is fixed{where}")
        merged: Labels = np.where(both | (b < 0), np.maximum(a, b), b)
        return np.where(both, a, merged)

    def contract(self, a: Labels | None, b: Labels | None, where: str = "") -> None:
        """Couple channels that are summed over; fixed unless one side is a weight's inputs."""
        self.couple(a, b, where)
        for labels in (a, b):
            known = labels[labels >= 0] if labels is not None else ()
            if len(known) and self.is_input[known].all():
                return
        self.fix(a, f"is summed over{where}")
        self.fix(b, f"is summed over{where}")

    def components(self) -> NDArray[np.int64]:
        """Of each label, the number of its connected component of coupled labels."""
        if not self.couplings:
            return np.arange(self.count)
        a = np.concatenate([first for first, _ in self.couplings])
        b = np.concatenate([second for _, second in self.couplings])
        graph = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), (self.count, self.count))
        numbers: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
        return numbers

    def removable(self, component: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Components that some layer computes and some layer reads."""
        count = int(component.max(initial=-1)) + 1
        computed, read = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        computed[component[self.is_output]] = True
        read[component[self.is_input]] = True
        return computed & read

    def groups(
        self, component: NDArray[np.int64], chosen: NDArray[np.bool_], round_to: int
    ) -> list[Group]:
        """The chosen components as units of groups; those of equal structure share a group.

        Args:
            component: of each label.
            chosen: of each component.
            round_to: see `Group.multiple`.
        """
        labels = np.flatnonzero(chosen[component])
        order = np.lexsort((labels, component[labels]))
        labels = labels[order]
        units = np.split(labels, np.flatnonzero(np.diff(component[labels])) + 1)
        by_structure: dict[bytes, list[Labels]] = {}
        for unit in sorted((u for u in units if len(u)), key=lambda u: int(u[0])):
            by_structure.setdefault(self.dimension_of[unit].tobytes(), []).append(unit)
        name_counts: dict[str, int] = {}
        return [
            self._group(np.stack(alike), name_counts, round_to) for alike in by_structure.values()
        ]

    def _group(self, units: Labels, name_counts: dict[str, int], round_to: int) -> Group:
        slices = []
        dimensions = self.dimension_of[units[0]]
        for number in dict.fromkeys(dimensions.tolist()):
            tensor_name, dim, role = self.dimensions[number]
            index = torch.from_numpy(units[:, dimensions == number] - self.first_label[number])
            slices.append(Slice(tensor_name, dim, index, role))
        first = next(s.name for s in slices if s.role == "output")
        name_counts[first] = name_counts.get(first, 0) + 1
        name = first if name_counts[first] == 1 else f"{first}#{name_counts[first]}"
        return Group(name, tuple(slices), round_to if len(units) >= 2 * round_to else 1)


def _own_tensors(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter, False
    for name, buffer in module.named_buffers(recurse=False):
        yield name, buffer, True
