"""Experts whose weights are stacked in one parameter, each packed by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.sparse.format import Format
from steppe.sparse.linear import Linear

_STACKS = ({"gate_up_proj", "down_proj"}, {"up_proj", "down_proj"})


def stacks_of(module: Any) -> list[str]:
    """Names of the stacked weights of a mixture's experts, in the way of transformers 5.

    Empty where a module is none, or computes more than two products and an activation.

    Example:
        >>> stacks_of(torch.nn.Linear(2, 2))
        []
    """
    own = dict(module.named_parameters())
    config = getattr(module, "config", None)
    known = hasattr(module, "is_transposed") and hasattr(config, "_experts_implementation")
    more = ("has_bias", "has_post_expert_norm")
    if not known or set(own) not in _STACKS or any(getattr(module, name, False) for name in more):
        return []
    plain = all(p.ndim == 3 for p in own.values()) and not any(True for _ in module.buffers())
    return list(own) if plain else []


class Experts(nn.Module):
    """The experts of a mixture, each weight in a format of its own.

    ``state_dict()`` gives the stacked dense weights under their names, and so does reading them as
    attributes.

    Args:
        inner: the module that was there, whose stacked parameters are given up; it has the
            activation.
        stacks: name of a stacked weight -> each expert's matrix ``[out, in]``.
    """

    def __init__(self, inner: Any, stacks: Mapping[str, Sequence[Format]]) -> None:
        super().__init__()
        for name in stacks:
            inner._parameters.pop(name, None)
        self.inner = inner
        self.packed = nn.ModuleDict(
            {name: nn.ModuleList(map(Linear, matrices)) for name, matrices in stacks.items()}
        )
        self._transposed = bool(inner.is_transposed)
        self.train(inner.training)

    def __getattr__(self, name: str) -> Any:
        modules = self.__dict__.get("_modules", {})
        if "packed" in modules and name in modules["packed"]:
            return self._stacked(name)
        return super().__getattr__(name)

    def _layers(self, name: str) -> list[Linear]:
        """Each expert's layer of a stacked weight."""
        stack: Any = self.packed[name]
        return list(stack)

    def _stacked(self, name: str) -> Tensor:
        weights = [layer.weight for layer in self._layers(name)]
        return torch.stack([w.t() if self._transposed else w for w in weights])

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        """Each token's weighted sum over its experts.

        Args:
            hidden_states: ``[tokens, width]``.
            top_k_index: numbers of the experts, ``[tokens, k]``; one that is too large is none.
            top_k_weights: ``[tokens, k]``.

        Raises:
            SteppeError: a number is negative.
        """
        up, down = map(self._layers, self.packed)
        total = torch.zeros_like(hidden_states)
        for expert in top_k_index.unique().tolist():
            if expert < 0:  # which a list would count from its end
                raise SteppeError(
                    "experts are numbered from 0",
                    got=expert,
                    way_out="take the number of experts for none",
                )
            if expert >= len(up):
                continue
            token, place = (top_k_index == expert).nonzero(as_tuple=True)
            hidden = up[expert](hidden_states[token])
            activated = (
                self.inner._apply_gate(hidden) if self.inner.has_gate else self.inner.act_fn(hidden)
            )
            own = down[expert](activated) * top_k_weights[token, place, None]
            total.index_add_(0, token, own.to(total.dtype))
        return total

    def state_dict(  # type: ignore[override]
        self, *, destination: Any = None, prefix: str = "", keep_vars: bool = False
    ) -> dict[str, Any]:
        """The stacked dense weights."""
        state: dict[str, Any] = {} if destination is None else destination
        for name in self.packed:
            state[f"{prefix}{name}"] = self._stacked(name)
        return state

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        # the layers find their own parts, which torch asks for after this
        for name in self.packed:
            stack = state_dict.pop(f"{prefix}{name}", ())
            for i, weight in enumerate(stack):
                own = weight.t() if self._transposed else weight
                state_dict[f"{prefix}packed.{name}.{i}.weight"] = own
        super()._load_from_state_dict(
            state_dict,
            prefix,
            local_metadata,
            strict,
            missing_keys,
            unexpected_keys,
            error_msgs,
        )

    def extra_repr(self) -> str:
        """How many experts, and their formats."""
        layers = [layer for name in self.packed for layer in self._layers(name)]
        formats = sorted({layer.format for layer in layers})
        return f"experts={len(layers) // len(self.packed)}, formats={formats}"
