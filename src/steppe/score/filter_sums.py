"""Sums of g w over whole filters: nothing but rounding errors in front of a norm."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.score.channel_norms import layers_of, norms_behind

_WAY_OUT = "variant auto has no such sum"


def said_of_filter_sums(score: str, model: nn.Module, groups: Sequence[Group]) -> list[str]:
    """What to say of a score that sums g w over the filters of channels.

    Args:
        score: what it is called.
        model: not wrapped.
        groups: the coupled channels that are ranked; without them it is not known which norm
            follows which layer.

    Returns:
        A sentence that names where the sum is zero; none where no norm is.

    Raises:
        SteppeError: norms follow all channels.
    """
    modules = dict(model.named_modules())
    norms = {group.name: norms_behind(modules, group) for group in groups}
    normed = [len(norms[g.name]) >= len(layers_of(modules, g)) for g in groups]
    if groups and all(normed):
        raise SteppeError(
            f"{score} sums g w over whole filters",
            got=f"norms behind all channels ({_few(n for own in norms.values() for n in own)})",
            consequence="in front of a norm the sum is zero, so that rounding errors would rank",
            way_out=_WAY_OUT,
        )
    of_channels = [n for n, m in modules.items() if _undoes_scales(m)]
    # a norm without tensors is in no group
    loose = [n for n in of_channels if not (groups and modules[n].state_dict())]
    places = {
        f"of the channels of {_few(name for name in norms if norms[name])}": any(norms.values())
    }
    places[f"before {_few(loose)}"] = bool(loose)
    where = " and ".join(place for place, there in places.items() if there)
    said = f"{score} sums g w over whole filters; the sum is rounding errors where a norm follows"
    return [f"{said}: {where}; {_WAY_OUT}"] if where else []


def _undoes_scales(module: nn.Module) -> bool:
    """Whether its output is the same whatever a channel of its input is multiplied with."""
    if isinstance(module, nn.GroupNorm):
        return module.num_groups == module.num_channels
    return isinstance(module, _NormBase)


def _few(names: Iterable[str]) -> str:
    """The first names, and how many more there are."""
    ordered = list(dict.fromkeys(names))
    more = f" and {len(ordered) - 3} more" if len(ordered) > 3 else ""
    return ", ".join(ordered[:3]) + more
