"""Which norms the channels of a group go through, and which layers they come from."""

from __future__ import annotations

from collections.abc import Iterable

from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from steppe.core.errors import SteppeError
from steppe.core.group import Group


def scales_channels(module: nn.Module) -> bool:
    """Whether it is a norm of single channels, with a scale or without one.

    Those of other packages are known by the names of their classes; a PReLU, whose slopes go with
    the channels too, is none.

    Example:
        >>> scales_channels(nn.BatchNorm2d(2)), scales_channels(nn.PReLU(2))
        (True, False)
    """
    return isinstance(module, _NormBase) or "Norm" in type(module).__name__


def norms_behind(modules: dict[str, nn.Module], group: Group) -> list[str]:
    """The names of the norms that a group's channels go through."""
    owners = {s.name.rpartition(".")[0] for s in group.slices if s.role in ("norm", "buffer")}
    return sorted(o for o in owners if o in modules and scales_channels(modules[o]))


def gates_of(modules: dict[str, nn.Module], group: Group) -> list[str]:
    """The names of the trained scales of a group's norms."""
    return [
        s.name
        for s in group.slices
        if s.role == "norm"
        and s.name.endswith("weight")
        and (owner := modules.get(s.name.rpartition(".")[0])) is not None
        and scales_channels(owner)
        and owner.get_parameter("weight").requires_grad
    ]


def layers_of(modules: dict[str, nn.Module], group: Group) -> list[str]:
    """The names of the weights that a group's channels come from.

    A depthwise convolution is none of them: it passes on what came from another layer.
    """
    names = [s.name for s in group.slices if s.role == "output"]
    return [n for n in names if not _depthwise(modules.get(n.rpartition(".")[0]))]


def _depthwise(module: nn.Module | None) -> bool:
    return isinstance(module, _ConvNd) and 1 < module.groups == module.in_channels


def require_gates(score: str, model: nn.Module, groups: Iterable[Group]) -> None:
    """Raise SteppeError where a channel has no gate behind it."""
    modules = dict(model.named_modules())
    without = [g.name for g in groups if not gates_of(modules, g)]
    if without:
        more = f" and {len(without) - 3} more" if len(without) > 3 else ""
        raise SteppeError(
            f"{score} reads the trained scale of a norm behind each channel",
            got=f"no such norm for {', '.join(without[:3])}{more}",
            way_out="score taylor (variant auto), which takes elementwise squares there",
        )
