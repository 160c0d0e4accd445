"""Which prunable weights are trained at all; the others are left out, and named."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import Layer
from steppe.core.protocols import Coupling
from steppe.engine.step.channel_selector import not_empty

_REASONS = {
    "frozen (requires_grad False)": "unfreeze them before sparsify to prune them",
    "complex": "weights are ranked as real numbers",
}


def _reason(weight: Tensor) -> str:
    """Why a weight cannot be pruned while training; empty if it can."""
    if not weight.requires_grad:
        return "frozen (requires_grad False)"
    return "complex" if weight.is_complex() else ""


def trained_layers(
    layers: Sequence[Layer], weights: Mapping[str, nn.Parameter]
) -> tuple[list[Layer], list[str]]:
    """The layers whose weights take a real gradient.

    Args:
        layers: the prunable ones.
        weights: name -> parameter.

    Returns:
        The layers that are left, and what to say of the others.

    Raises:
        SteppeError: none is left.
    """
    reasons = {x.name: _reason(weights[x.name]) for x in layers}
    if all(reasons.values()):
        raise SteppeError(
            "some prunable weight must be trained, and be real",
            got=_listed(reasons),
            way_out="requires_grad_(True) before sparsify; or steppe.methods.dense()",
        )
    notes = []
    for why, way_out in _REASONS.items():
        names = [name for name, reason in reasons.items() if reason == why]
        if names:
            notes.append(f"{why}, so they stay dense: {_few(names)}; {way_out}")
    return [x for x in layers if not reasons[x.name]], notes


def trained_groups(
    model: nn.Module, groups: Sequence[Group], coupling: Coupling
) -> tuple[Sequence[Group], list[str]]:
    """The groups of coupled channels all of whose parameters take a real gradient.

    Args:
        model: not wrapped.
        groups: its coupled channels.
        coupling: of the run; one that never prunes leaves all of them.

    Returns:
        The groups that are left, and what to say of the others.

    Raises:
        SteppeError: none is left.
    """
    not_empty(groups)
    if not groups or not coupling.prunes:
        return groups, []
    reasons = {name: why for name, p in model.named_parameters() if (why := _reason(p))}
    fixed = {
        g.name: {s.name: reasons[s.name] for s in g.slices if s.name in reasons} for g in groups
    }
    left = [g for g in groups if not fixed[g.name]]
    of = {name: why for held in fixed.values() for name, why in held.items()}
    if not left:
        raise SteppeError(
            "some group of coupled channels must be trained whole",
            got=_listed(of),
            way_out="requires_grad_(True) before sparsify; or steppe.methods.dense()",
        )
    if not of:
        return groups, []
    whole = [g.name for g in groups if fixed[g.name]]
    return left, [f"channels of {_few(whole)} stay: {_listed(of)}"]


def _listed(reasons: Mapping[str, str]) -> str:
    """Each reason with its names."""
    names: dict[str, list[str]] = {}
    for name, why in reasons.items():
        names.setdefault(why, []).append(name)
    return ", ".join(f"{_few(own)} {why}" for why, own in names.items())


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return ", ".join(names[:3]) + more
