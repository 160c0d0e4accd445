"""Weight times the norm of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.protocols import Score
from steppe.core.statistic import STATISTICS, Statistic
from steppe.score.input_squares import squares_of


@Score.registry.register("wanda")
@dataclass(frozen=True, kw_only=True)
class Wanda(Score):
    """|w_ij| ||x_j||_2 with the norm averaged over samples. Source: Sun et al. 2024, eq. 1."""

    name = "wanda"
    needs = ("activation_square",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return weight * stats["activation_square"].sqrt()


@STATISTICS.register("activation_square")
class ActivationSquare(Statistic):
    """E[x_j^2] of each input j, shaped to broadcast over the weight (Sun et al. 2024).

    For a convolution j is an input channel: borders aside, every kernel position sees it.
    Grouped convolutions take each group's own inputs. The recurrent weights of an LSTM read the
    states of the step before, the projections of attention queries, keys, values and heads.
    """

    name = "activation_square"

    @classmethod
    def gathers(cls, layer: Layer, module: nn.Module) -> bool:
        return squares_of(layer, module) is not None

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._on = False
        self._seen: dict[str, list[Tensor]] = {}
        for name, (layer, module) in modules.items():
            if len(layer.shape) > 1:  # norms and biases of coupled channels have no inputs
                module.register_forward_hook(self._hook(name, layer), with_kwargs=True)

    def _hook(self, name: str, layer: Layer) -> Any:
        def hook(module: nn.Module, args: Any, kwargs: dict[str, Any], output: Any) -> None:
            squares = squares_of(layer, module)
            if self._on and squares is not None:
                self._on = False  # the module may be run once more to see inside
                value = squares(module, layer, (args, kwargs), output)
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
