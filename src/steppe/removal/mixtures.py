"""Mixtures of experts of transformers, recognised by their modules' names."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from steppe.core.group import Group, Slice

ROUTERS = ("gate", "router")
COUNTS = ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts")
"""What modules and configs call the number of experts of a mixture."""
WIDTHS = ("intermediate_dim", "intermediate_size", "moe_intermediate_size")
"""What the module of the experts calls the number of each one's neurons."""
CHOSEN = ("top_k", "num_experts_per_tok", "num_experts_per_token", "top_k_experts", "moe_k")
"""What routers and configs call the number of experts that each token is sent to."""
GROUPS, GROUPS_CHOSEN = ("num_group", "n_group"), ("topk_group",)
"""Of routers that choose groups of neighbouring experts first (DeepSeek)."""


@dataclass(frozen=True, eq=False)
class Mixture:
    """A router and the experts that it chooses from, beside each other in one module.

    Args:
        owner: the module that holds both.
        router: chooses experts for each token, by one linear layer.
        experts: all of them, in stacked weights.
        name: of the router's weight ``[experts, hidden]`` in the model.
        inside: name of the experts' module in the model.
        tensors: name in the model -> tensor, of all that have an entry for each expert in the first
            dimension: the router's weight, biases, the stacked weights.
    """

    owner: nn.Module
    router: nn.Module
    experts: nn.Module
    name: str
    inside: str
    tensors: dict[str, Tensor]

    @property
    def count(self) -> int:
        """How many experts there are."""
        return len(self.tensors[self.name])

    @property
    def biases(self) -> list[Tensor]:
        """One number for each expert, as the router has it: biases of its choice."""
        return [t for t in self.tensors.values() if t.ndim == 1]

    def group(self) -> Group:
        """The experts as coupled units: each goes everywhere or nowhere."""
        index = torch.arange(self.count).view(-1, 1)
        roles = {n: "input" if n.startswith(f"{self.inside}.") else "bias" for n in self.tensors}
        roles[self.name] = "output"
        slices = [Slice(name, 0, index, role) for name, role in roles.items()]
        return Group(self.name, tuple(slices), 1, "expert")

    @property
    def width(self) -> int:
        """How many neurons each expert has."""
        down = self.tensors[f"{self.inside}.down_proj"]
        return down.shape[1 if self._inputs_first else 2]

    @property
    def _inputs_first(self) -> bool:
        return bool(getattr(self.experts, "is_transposed", False))

    @property
    def reader(self) -> str | None:
        """Name of the stacked weight that reads the experts' neurons; None as `neurons` is."""
        names = {n.removeprefix(f"{self.inside}.") for n in self.tensors}
        known = {self._first, "down_proj"} <= names and hasattr(self.experts, "is_transposed")
        return f"{self.inside}.down_proj" if known else None

    @property
    def _gated(self) -> bool:
        return bool(getattr(self.experts, "has_gate", False))

    @property
    def _first(self) -> str:
        return "gate_up_proj" if self._gated else "up_proj"

    def neurons(self) -> Group | None:
        """The neurons of all experts, ``experts * width`` units, each of one expert.

        None where the layout of the stacked weights is not known.
        """
        if self.reader is None:
            return None
        names = {n.removeprefix(f"{self.inside}.") for n in self.tensors}
        gated, first = self._gated, self._first
        alone = torch.arange(self.count * self.width).view(-1, 1)
        index = alone
        if gated and getattr(self.experts, "is_concatenated", True):
            expert, neuron = alone // self.width, alone % self.width
            gate = 2 * self.width * expert + neuron
            index = torch.cat([gate, gate + self.width], dim=1)
        elif gated:
            index = torch.cat([2 * alone, 2 * alone + 1], dim=1)
        rows, columns = (2, 1) if self._inputs_first else (1, 2)
        inside = f"{self.inside}.{first}"
        slices = [Slice(inside, rows, index, "output", stacked=True)]
        if f"{first}_bias" in names:
            slices.append(Slice(f"{inside}_bias", 1, index, "bias", stacked=True))
        slices.append(Slice(self.reader, columns, alone, "input", stacked=True))
        return Group(inside, tuple(slices), 1, "channel")

    def size(self, names: tuple[str, ...]) -> int | None:
        """A number that the router or what is around it has under one of these names."""
        found = (getattr(m, n, None) for m in (self.router, self.owner) for n in names)
        return next((v for v in found if isinstance(v, int) and not isinstance(v, bool)), None)


def mixtures_of(model: nn.Module) -> Iterator[Mixture]:
    """Every mixture whose experts are stacked beside a router, block by block.

    Args:
        model: of transformers, or a block of one: names are as it has them.

    Example:
        >>> block, block.experts = nn.Module(), nn.Module()
        >>> block.gate, block.experts.up = nn.Linear(3, 4), nn.Parameter(torch.ones(4, 5, 3))
        >>> [(m.name, m.count) for m in mixtures_of(block)]
        [('gate.weight', 4)]
    """
    for name, module in model.named_modules():
        own = dict(module.named_children())  # of a script too
        experts = own.get("experts")
        router = next((r for r in map(own.get, ROUTERS) if r is not None), None)
        if experts is None or router is None:
            continue
        prefix = f"{name}." if name else ""
        stacked = {
            f"{prefix}experts.{n}": p for n, p in experts._parameters.items() if p is not None
        }
        counts = {len(p) if p.ndim > 1 else 0 for p in stacked.values()}
        if len(counts) != 1 or not any(p.ndim == 3 for p in stacked.values()):
            continue
        place = next(n for n, m in own.items() if m is router)
        chosen = _of_router(module, router, f"{prefix}{place}.", prefix, counts.pop())
        if chosen is not None:
            weight, tensors = chosen
            inside = f"{prefix}experts"
            yield Mixture(module, router, experts, weight, inside, tensors | stacked)


def _of_router(
    owner: nn.Module, router: nn.Module, inside: str, around: str, count: int
) -> tuple[str, dict[str, Tensor]] | None:
    """The router's weight, by name, and all tensors that have an entry for each expert."""
    own = [(inside + n, t) for n, t in (*router.named_parameters(), *router.named_buffers())]
    weight = next((n for n, t in own if t.ndim == 2 and len(t) == count), None)
    if weight is None:
        return None
    tensors = dict(own)
    hidden = tensors[weight].shape[1]
    beside = [
        (around + n, t)
        for n, t in (*owner._parameters.items(), *owner._buffers.items())
        if t is not None
    ]

    def of_each(name: str, tensor: Tensor) -> bool:
        told = count != hidden or "bias" in name or "expert" in name.rpartition(".")[2]
        return tensor.shape == (count,) and told

    return weight, {weight: tensors[weight]} | {n: t for n, t in (*own, *beside) if of_each(n, t)}


def update_sizes(mixtures: list[Mixture]) -> None:
    """Set the modules' numbers of experts, and of their neurons, to what the weights have now.

    Args:
        mixtures: as they were recognised before the weights were cut.
    """
    for mixture in mixtures:
        new = {**mixture.tensors}
        new |= {f"{mixture.inside}.{n}": p for n, p in mixture.experts.named_parameters()}
        now = replace(mixture, tensors=new)
        experts = len(next(p for p in mixture.experts.parameters() if p.ndim == 3))
        for module in (mixture.owner, mixture.router, mixture.experts):
            _exchange(module, COUNTS, mixture.count, experts)
        if mixture.neurons() is not None:
            _exchange(mixture.experts, WIDTHS, mixture.width, now.width)


def _exchange(module: nn.Module, names: tuple[str, ...], old: int, new: int) -> None:
    for name in names:
        if getattr(module, name, None) == old:
            setattr(module, name, new)
