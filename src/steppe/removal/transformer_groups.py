"""The groups of attention heads and MLP neurons of transformers, recognised by name."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.dependency_graph import excluded_names
from steppe.removal.transformer_patterns import Sublayer, sublayers_of


def transformer_groups(
    model: nn.Module, *, exclude: Sequence[str] = (), round_to: int = 1
) -> list[Group]:
    """Attention heads and MLP neurons of a transformer, without running it.

    A key head goes with all its query heads, a neuron with its gate. The width of the residual
    stream stays.

    Args:
        model: of transformers, or with the same names of modules.
        exclude: shell patterns over module or parameter names; what they match stays whole.
        round_to: keep a multiple of so many units where there are at least twice as many.

    Returns:
        One group for each attention and each MLP; none when no module is known.

    Raises:
        SteppeError: a pattern matches nothing.

    Example:
        >>> class Mlp(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = nn.Linear(3, 8), nn.Linear(8, 3)
        >>> transformer_groups(Mlp())[0].units
        8
    """
    model = unwrap(model)
    excluded = excluded_names(model, exclude)
    groups = [s.group(round_to) for s in sublayers_of(model, excluded) if not _is_in(s, excluded)]
    tied = tied_names(model)
    return [group for group in groups if not any(s.name in tied for s in group.slices)]


def _is_in(sublayer: Sublayer, excluded: set[str]) -> bool:
    names = [name for name, _, _ in (*sublayer.producers, *sublayer.consumers)]
    return any(name in excluded or f"{name}.weight" in excluded for name in names)


def tied_names(model: nn.Module) -> set[str]:
    """The first names of the parameters that have several."""
    first: dict[int, str] = {}
    tied = set()
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        if known != name:
            tied.add(known)
    return tied
