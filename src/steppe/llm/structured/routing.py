"""Routers at work: what they give to each expert, and routers that no longer choose some."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear
from torch.overrides import TorchFunctionMode

from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.llm.structured.merging import loaded
from steppe.removal.mixtures import Mixture, mixtures_of


@contextlib.contextmanager
def stood_in(module: nn.Module, stand_in: Any) -> Iterator[None]:
    """Another forward in the place of a module's own."""
    assert "forward" not in vars(module), "somebody else has put one there"
    module.forward = stand_in
    try:
        yield
    finally:
        del module.forward


class RoutedTokens:
    """What the experts of a mixture are given and what they make of it, over all tokens.

    While it is entered the mixture computes nothing else: its output is zero.

    Args:
        mixture: in memory.
        device: where it computes.
    """

    def __init__(self, mixture: Mixture, device: torch.device) -> None:
        self._mixture = mixture
        zeros = torch.zeros(3, mixture.count, dtype=torch.float64, device=device)
        self._norms, self._tokens, self._gates = zeros
        self._logits = torch.zeros(mixture.count, mixture.count, dtype=zeros.dtype, device=device)
        self._all = torch.zeros((), dtype=torch.float64, device=device)

    def seen(self) -> contextlib.AbstractContextManager[None]:
        """While it is entered, passes through the model are taken in."""
        return stood_in(self._mixture.experts, self._take_in)

    @torch.no_grad()
    def _take_in(self, hidden: Tensor, index: Tensor, gates: Tensor) -> Tensor:
        if index.shape != gates.shape or hidden.shape[:-1] != index.shape[:-1]:
            raise SteppeError(
                "experts are given their tokens with an index and a weight for each choice",
                got=f"{tuple(index.shape)} and {tuple(gates.shape)} in {self._mixture.inside}",
                way_out="structure neurons or heads",
            )
        flat, index, gates = hidden.flatten(0, -2), index.flatten(0, -2), gates.flatten(0, -2)
        self._all += len(flat)
        logits = linear(flat, self._rows.to(flat.dtype)).double()
        self._logits += logits.T @ logits
        for expert in index.unique().tolist():
            tokens, place = (index == expert).nonzero(as_tuple=True)
            made = self._alone(flat[tokens], expert)
            gate = gates[tokens, place].double()
            self._norms[expert] += (gate * torch.linalg.vector_norm(made.double(), dim=1)).sum()
            self._tokens[expert] += len(tokens)
            self._gates[expert] += gate.sum()
        return torch.zeros_like(hidden)

    def _alone(self, hidden: Tensor, expert: int) -> Tensor:
        """What one expert makes of tokens ``[tokens, hidden]``."""
        index = torch.full((len(hidden), 1), expert, device=hidden.device)
        own = type(self._mixture.experts).forward
        made: Tensor = own(self._mixture.experts, hidden, index, hidden.new_ones(len(hidden), 1))
        return made

    def finish(self) -> None:
        """Add up what the processes saw."""
        ranks.add_up([self._norms, self._tokens, self._gates, self._all, self._logits])

    @property
    def tokens(self) -> list[int]:
        """How many each expert got."""
        return [round(n) for n in self._tokens.tolist()]

    @property
    def _rows(self) -> Tensor:
        """The router's weight as it is in memory now."""
        now = loaded(self._mixture)
        return now.tensors[now.name]

    @property
    def products(self) -> dict[str, Tensor]:
        """What `steppe.core.protocols.ExpertMerger` compares experts by."""
        rows = self._rows.double()
        return {"expert_logits": self._logits.cpu(), "expert_router": (rows @ rows.T).cpu()}

    @property
    def statistics(self) -> dict[str, Tensor]:
        """What coupling reroute says, each ``[experts, 1, 1]``."""
        every = {
            "expert_output": self._norms / self._tokens.clamp_min(1),
            "expert_tokens": self._tokens / self._all.clamp_min(1),
            "expert_gate": self._gates / self._all.clamp_min(1),
        }
        return {name: value.float()[:, None, None] for name, value in every.items()}


class _NeverChosen(TorchFunctionMode):
    """The outputs of one linear layer, some of them minus infinity."""

    def __init__(self, weight: Tensor, gone: Tensor) -> None:
        super().__init__()
        self._place, self._gone = (weight.data_ptr(), weight.numel()), gone.to(weight.device)
        self.met = False

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        made = func(*args, **(kwargs or {}))
        if func is linear and (args[1].data_ptr(), args[1].numel()) == self._place:
            self.met = True
            return made.masked_fill(self._gone, -torch.inf)
        return made


@contextlib.contextmanager
def rerouted(model: nn.Module, kept: Mapping[str, Tensor]) -> Iterator[None]:
    """Routers that choose among the experts that stay: the logits of all others are -inf.

    Biases of a choice that come after the logits are -inf too.

    Args:
        model: with mixtures, or a block of one.
        kept: weight of a router in it -> ``[experts]`` booleans.

    Raises:
        SteppeError: when it runs, a router that is no linear layer.
    """
    with contextlib.ExitStack() as entered:
        found = {mixture.name: mixture for mixture in mixtures_of(model)}
        for name, alive in kept.items():
            entered.enter_context(stood_in(found[name].router, _among(found[name], alive)))
        yield


def _among(mixture: Mixture, alive: Tensor) -> Any:
    """A router's forward that chooses among some experts."""
    router = mixture.router
    own = type(router).forward

    @torch.no_grad()
    def forward(*args: Any, **kwargs: Any) -> Any:
        now = loaded(mixture)
        weight = now.tensors[now.name]
        gone = ~alive.to(weight.device)
        before = [bias.clone() for bias in now.biases]
        mode = _NeverChosen(weight, gone)
        try:
            for bias in now.biases:
                bias.masked_fill_(gone, -torch.inf)
            with mode:
                chosen = own(router, *args, **kwargs)
        finally:
            for bias, value in zip(now.biases, before, strict=True):
                bias.copy_(value)
        if not mode.met:
            raise SteppeError(
                "experts are removed where one linear layer chooses them",
                got=f"the router {mixture.name}",
                way_out="structure neurons or heads",
            )
        return chosen

    return forward
