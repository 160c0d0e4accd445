"""Statistics of what flows into each weight, seen by forward hooks."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.statistic import Statistic
from steppe.score.input_squares import Reading


class InputStatistic(Statistic):
    """A mean of something of the inputs of each weight, over what the passes at x show."""

    @classmethod
    def reading(cls, layer: Layer, module: nn.Module) -> Reading | None:
        """How it is read from a call of the weight's module; None if it cannot be."""
        raise NotImplementedError

    @classmethod
    def gathers(cls, layer: Layer, module: nn.Module) -> bool:
        return cls.reading(layer, module) is not None

    def looks_at(self, name: str) -> bool:
        """Whether the inputs of a weight of that name are wanted."""
        return True

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._on = False
        self._seen: dict[str, list[Tensor]] = {}
        for name, (layer, module) in modules.items():
            if len(layer.shape) > 1:  # norms and biases of coupled channels have no inputs
                module.register_forward_hook(self._hook(name, layer), with_kwargs=True)

    def _hook(self, name: str, layer: Layer) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            read = self.reading(layer, module) if self._on and self.looks_at(name) else None
            if read is not None:
                self._on = False  # the module may be run once more to see inside
                value = read(module, layer, (args, kwargs), output)
                self._on = True
                self._seen.setdefault(name, []).append(value)

        return hook

    def begin(self) -> None:
        self._seen.clear()  # of a step that overflowed, which was not observed

    def active(self, on: bool) -> None:
        self._on = on

    @torch.no_grad()
    def observe(self, weights: dict[str, Tensor], grads: dict[str, Tensor]) -> None:
        new = {k: torch.stack(v).mean(0) for k, v in sorted(self._seen.items())}
        self._seen.clear()
        if dist.is_available() and dist.is_initialized():
            # gradients arrive averaged over the ranks, activations do not
            for value in new.values():
                dist.all_reduce(value)
                value /= dist.get_world_size()
        self.mean_of(new)
