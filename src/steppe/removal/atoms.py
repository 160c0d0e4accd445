"""The channels of every tensor of a model as numbered atoms, and which must go together."""

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
"""Of one dimension of a tensor in flight: which atom lies at each position."""

FIXED = -1
"""A position whose size is written in the model's code: it cannot be removed."""
PAD = -2
"""Zeros that a module puts around channels and whose number surgery can set."""

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
    if isinstance(module, nn.Embedding):
        return (None, "output")
    return ("norm",) * ndim


class Atoms:
    """One number for each (tensor, dimension, index), and what joins or fixes them.

    Args:
        model: whose parameters and buffers are numbered, a tied one once.
    """

    def __init__(self, model: nn.Module) -> None:
        self.slots: list[tuple[str, int, str]] = []
        """(tensor, dimension, role) of each run of atoms."""
        self.starts: list[int] = []
        self.of: dict[int, list[Labels | None]] = {}
        """id of a parameter or buffer -> labels of its dimensions."""
        self.total = 0
        for module_name, module in model.named_modules():
            prefix = f"{module_name}." if module_name else ""
            for name, tensor, is_buffer in _own(module):
                if id(tensor) not in self.of:
                    kinds = roles(module, name, tensor.ndim, is_buffer)
                    self.of[id(tensor)] = self._number(prefix + name, tensor, kinds)
        held = [role for _, _, role in self.slots]
        sizes = np.diff([*self.starts, self.total])
        self.slot_of = np.repeat(np.arange(len(self.slots)), sizes)
        self.is_input = np.repeat([k == "input" for k in held], sizes)
        self.is_output = np.repeat([k == "output" for k in held], sizes)
        self.joins: list[tuple[Labels, Labels]] = []
        self.fixed: list[tuple[Labels, str]] = []
        self.lost: list[tuple[Labels, str, str]] = []

    def _number(
        self, name: str, tensor: Tensor, kinds: tuple[str | None, ...]
    ) -> list[Labels | None]:
        labels: list[Labels | None] = []
        for dim, (size, role) in enumerate(zip(tensor.shape, kinds, strict=True)):
            if role is None or size < 2:  # one channel alone can never go
                labels.append(None)
                continue
            self.slots.append((name, dim, role))
            self.starts.append(self.total)
            labels.append(np.arange(self.total, self.total + size, dtype=np.int64))
            self.total += size
        return labels

    def fix(self, labels: Labels | None, why: str) -> None:
        """These channels must stay."""
        if labels is not None and (labels >= 0).any():
            self.fixed.append((labels[labels >= 0], why))

    def lose(self, labels: list[Labels], module: str, operation: str) -> None:
        """These channels went into an operation that cannot be followed."""
        held = np.concatenate(labels)
        self.lost.append((held[held >= 0], module, operation))

    def join(self, a: Labels | None, b: Labels | None, where: str = "") -> Labels | None:
        """Channels at the same positions go together; the labels of the result."""
        if a is None or b is None:
            left = b if a is None else a
            self.fix(left, f"meets a tensor whose size is fixed{where}")
            return left
        both = (a >= 0) & (b >= 0)
        if both.any():
            self.joins.append((a[both], b[both]))
        self.fix(a[b == FIXED], f"meets a tensor whose size is fixed{where}")
        self.fix(b[a == FIXED], f"meets a tensor whose size is fixed{where}")
        merged: Labels = np.where(both | (b < 0), np.maximum(a, b), b)
        return np.where(both, a, merged)

    def contract(self, a: Labels | None, b: Labels | None, where: str = "") -> None:
        """Channels that are summed over: fine when one side are a weight's columns."""
        self.join(a, b, where)
        for one in (a, b):
            if one is not None and self.is_input[one[one >= 0]].all() and (one >= 0).any():
                return
        self.fix(a, f"is summed over{where}")
        self.fix(b, f"is summed over{where}")

    def components(self) -> NDArray[np.int64]:
        """The number of the component that each atom belongs to."""
        if not self.joins:
            return np.arange(self.total)
        a = np.concatenate([pair[0] for pair in self.joins])
        b = np.concatenate([pair[1] for pair in self.joins])
        graph = coo_matrix((np.ones(len(a), dtype=bool), (a, b)), (self.total, self.total))
        found: NDArray[np.int64] = connected_components(graph, directed=False)[1].astype(np.int64)
        return found

    def able(self, component: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Components that something computes and something reads: they could be removed."""
        count = int(component.max(initial=-1)) + 1
        computed, read = np.zeros(count, dtype=bool), np.zeros(count, dtype=bool)
        computed[component[self.is_output]] = True
        read[component[self.is_input]] = True
        return computed & read

    def groups(
        self, component: NDArray[np.int64], wanted: NDArray[np.bool_], round_to: int
    ) -> list[Group]:
        """Components of the same shape, as the units of groups.

        Args:
            component: of each atom.
            wanted: of each component.
            round_to: see `Group.multiple`.
        """
        atoms = np.flatnonzero(wanted[component])
        order = np.lexsort((atoms, component[atoms]))
        atoms = atoms[order]
        units = np.split(atoms, np.flatnonzero(np.diff(component[atoms])) + 1)
        alike: dict[bytes, list[Labels]] = {}
        for unit in sorted((u for u in units if len(u)), key=lambda u: int(u[0])):
            alike.setdefault(self.slot_of[unit].tobytes(), []).append(unit)
        named: dict[str, int] = {}
        return [self._group(np.stack(held), named, round_to) for held in alike.values()]

    def _group(self, units: Labels, named: dict[str, int], round_to: int) -> Group:
        slices = []
        slots = self.slot_of[units[0]]
        for slot in dict.fromkeys(slots.tolist()):
            name, dim, role = self.slots[slot]
            index = torch.from_numpy(units[:, slots == slot] - self.starts[slot])
            slices.append(Slice(name, dim, index, role))
        first = next(s.name for s in slices if s.role == "output")
        named[first] = named.get(first, 0) + 1
        name = first if named[first] == 1 else f"{first}#{named[first]}"
        return Group(name, tuple(slices), round_to if len(units) >= 2 * round_to else 1)


def _own(module: nn.Module) -> Iterator[tuple[str, Tensor, bool]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield name, parameter, False
    for name, buffer in module.named_buffers(recurse=False):
        yield name, buffer, True
