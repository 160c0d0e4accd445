"""How much a channel varies, as those that read it see it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice
from steppe.core.layer import Layer, home_of, inputs_first
from steppe.core.protocols import Score
from steppe.core.statistic import STATISTICS
from steppe.score.input_squares import Reading
from steppe.score.input_squares.calls import Call
from steppe.score.input_statistic import InputStatistic

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@Score.registry.register("variance")
@dataclass(frozen=True, kw_only=True)
class Variance(Score):
    """var(a) of what reads the channel is given: after its norm and its activation.

    Over samples and positions or tokens; summed over the inputs that belong to the channel (the
    dimensions of a head, the pixels of a flattened map) and over the layers that read it. Of a
    grouped convolution the mean over its groups is taken. A channel that hardly varies can be
    replaced by its mean: coupling hard_mask does so with ``shift``.

    Needs coupled channels (groups).

    Source: Berisha et al. 2025 (Variance-Based Pruning, arXiv 2507.12988).
    """

    name = "variance"
    needs = ("input_moments",)

    def score(self, weight: Tensor, stats: Mapping[str, Tensor], key: str) -> Tensor:
        return stats["input_moments"][1].expand(weight.shape)

    def for_network(
        self, model: nn.Module, whole_outputs: bool, groups: Sequence[Group]
    ) -> tuple[Score, list[str]]:
        for group in groups:
            read = [s for s in group.slices if self.reads(s)]
            blind = [s.name for s in read if not _seen(model, s)]
            if blind or not read:
                raise SteppeError(
                    "score variance reads the inputs of linear layers and convolutions",
                    got=f"{blind[0]}, which is neither" if blind else f"{group.name}, read by none",
                    way_out=f"leave it out: exclude={[group.name]}; or score taylor",
                )
        return self, []

    def reads(self, part: Slice) -> bool:
        return part.role == "input"

    def members(self, group: Group, saliencies: Mapping[str, Tensor]) -> Tensor:
        """``[units, inputs]``: each input once, however many weights read it."""
        alone = [
            s.rows(saliencies[s.name]).reshape(*s.index.shape, -1).mean(-1)
            for s in group.slices
            if self.reads(s)
        ]
        return torch.cat(alone, dim=1)

    def reduce(self, groups: Tensor) -> Tensor:
        return groups.sum(-1)


def _seen(model: nn.Module, part: Slice) -> bool:
    weight = model.get_parameter(part.name)
    layer = Layer(part.name, tuple(weight.shape))
    return InputMoments.gathers(layer, home_of(model, part.name))


@STATISTICS.register("input_moments")
class InputMoments(InputStatistic):
    """E[x_j] and var(x_j) of each input j of what reads coupled channels, ``[2, ...]``.

    Both broadcast over the weight. Kept as E[x_j] and E[x_j^2], whose running means are those of
    all batches together, in float64, as their difference loses digits.
    """

    name = "input_moments"

    @classmethod
    def shape(cls, weight: tuple[int, ...]) -> tuple[int, ...]:
        return (2, *weight)

    @classmethod
    def reading(cls, layer: Layer, module: nn.Module) -> Reading | None:
        known = isinstance(module, (nn.Linear, *_CONVOLUTIONS)) or inputs_first(module)
        return _moments if known else None

    def prepare(self, modules: dict[str, tuple[Layer, nn.Module]]) -> None:
        super().prepare(modules)
        self._read: set[str] = set()

    def couple(self, groups: Sequence[Group]) -> None:
        self._read = {s.name for g in groups for s in g.slices if s.role == "input"}

    def looks_at(self, name: str) -> bool:
        return name in self._read

    def value(self, name: str) -> Tensor | None:
        kept = self.values.get(name)
        if kept is None:
            return None
        mean, square = kept
        return torch.stack([mean, (square - mean.square()).clamp_min(0.0)])


def _moments(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    """``[2, ...]``: the mean and the mean square of each input of one call."""
    args, kwargs = call
    x: Tensor = (args[0] if args else next(iter(kwargs.values()))).detach()
    x = x if x.dtype == torch.float64 else x.float()
    kernel = [1] * (len(layer.shape) - 2)
    if kernel:
        batched = x if x.ndim == len(layer.shape) else x[None]
        x = batched.movedim(1, -1)
    variance, mean = (
        m.double() for m in torch.var_mean(x.reshape(-1, x.shape[-1]), 0, correction=0)
    )
    moments = torch.stack([mean, variance + mean.square()])
    if inputs_first(module):
        return moments[..., None]
    groups = module.groups if isinstance(module, _CONVOLUTIONS) else 1
    rows = layer.rows // groups if groups > 1 else 1
    spread = moments.reshape(2, groups, -1).repeat_interleave(rows, 1)
    return spread.reshape(*spread.shape, *kernel)
