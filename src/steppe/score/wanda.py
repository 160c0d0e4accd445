"""Weight times the norm of its input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.protocols import Score
from steppe.core.statistic import STATISTICS, Statistic


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
    Grouped convolutions take each group's own inputs.
    """

    name = "activation_square"

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        self._on = False
        self._seen: dict[str, list[Tensor]] = {}
        for name, (layer, module) in modules.items():
            module.register_forward_pre_hook(self._hook(name, layer, module))

    def _hook(self, name: str, layer: Layer, module: nn.Module):  # type: ignore[no-untyped-def]
        groups = int(getattr(module, "groups", 1))
        convolution = isinstance(module, nn.Conv1d | nn.Conv2d | nn.Conv3d)

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            if not self._on:
                return
            x = args[0].detach().float()
            if not convolution:
                mean = x.reshape(-1, x.shape[-1]).square().mean(0)
                value = mean[:, None] if layer.transposed else mean[None]
            else:
                batched = x if x.ndim == len(layer.shape) else x[None]
                mean = batched.square().mean(dim=[0, *range(2, batched.ndim)])
                per_group = mean.reshape(groups, -1)
                value = per_group.repeat_interleave(layer.rows // groups, 0)
                value = value.reshape(*value.shape, *[1] * (len(layer.shape) - 2))
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
