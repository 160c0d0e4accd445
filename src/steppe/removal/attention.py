"""Heads and neurons of transformers, found by their modules' names, and the sizes kept there."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from copy import deepcopy
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import unwrap
from steppe.removal.graph import matched
from steppe.removal.patterns import HEADS, KEY_HEADS, Part, parts_of, width


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
        SteppeError: heads do not divide evenly, or a pattern matches nothing.

    Example:
        >>> class Mlp(nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.fc1, self.fc2 = nn.Linear(3, 8), nn.Linear(8, 3)
        >>> transformer_groups(Mlp())[0].units
        8
    """
    model = unwrap(model)
    excluded = matched(model, exclude)
    parts = [part for part in parts_of(model, excluded) if not _touches(part, excluded)]
    groups = [part.group(round_to) for part in parts]
    shared = {name for name, count in _uses(model).items() if count > 1}
    return [g for g in groups if not any(s.name in shared for s in g.slices)]


def _touches(part: Part, excluded: set[str]) -> bool:
    names = [name for name, _, _ in (*part.makes, *part.reads)]
    return any(n in excluded or f"{n}.weight" in excluded for n in names)


def _uses(model: nn.Module) -> dict[str, int]:
    """How many names each parameter has: a tied weight is left alone."""
    first: dict[int, str] = {}
    count: dict[str, int] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        known = first.setdefault(id(parameter), name)
        count[known] = count.get(known, 0) + 1
    return count


def fit_attributes(parts: Iterable[Part]) -> None:
    """Set the numbers of heads and neurons that modules keep, from the weights as they are now.

    Args:
        parts: as they were found before the weights were cut.
    """
    for part in parts:
        if part.kind == "channel":
            _set(part.owner, ("intermediate_size", "intermediate_dim"), width(part.makes[0][1]))
            continue
        wide = width(part.reads[0][1], 1)
        _set(part.owner, HEADS, wide // part.size)
        _set(part.owner, KEY_HEADS, wide // part.size // part.each)
        _set(part.owner, ("all_head_size", "split_size", "inner_dim"), wide)


def _set(module: Any, names: Sequence[str], value: int) -> None:
    for name in names:
        if isinstance(getattr(module, name, None), int):
            setattr(module, name, value)


def fit_config(model: nn.Module) -> str:
    """Write the new sizes into ``model.config`` where one number says it for all blocks.

    Args:
        model: of transformers, cut; others are left alone.

    Returns:
        "" when a model built from the config has the shapes of this one, so that plain
        ``from_pretrained`` loads it; else why not, and the config is as it was.
    """
    config = getattr(model, "config", None)
    if config is None or not hasattr(config, "to_dict"):
        return "it is no model of transformers"
    parts = list(parts_of(model))
    sizes = {
        "num_attention_heads": {p.units * p.each for p in parts if p.kind == "head"},
        "num_key_value_heads": {p.units for p in parts if p.kind == "head"},
        "head_dim": {p.size for p in parts if p.kind == "head"},
        "intermediate_size": {p.units for p in parts if p.kind == "channel"},
    }
    if any(len(held) > 1 for held in sizes.values()):
        return "its blocks differ in heads or neurons"
    new = {name: held.pop() for name, held in sizes.items() if held}
    trial = deepcopy(config)
    try:
        _write(trial, new)
    except Exception as error:  # e.g. it has one number for each stage
        return f"its config refuses: {str(error).strip().splitlines()[-1][:200]}"
    why = _mismatch(model, trial)
    if not why:
        _write(config, new)
    return why


def _write(config: Any, sizes: dict[str, int]) -> None:
    for name, value in sizes.items():
        old = getattr(config, name, None)
        plain = name == "head_dim" and value * sizes["num_attention_heads"] == config.hidden_size
        if name == "num_key_value_heads" and old is None:
            continue
        if old != value and not (old is None and plain):
            setattr(config, name, value)


def _mismatch(model: nn.Module, config: Any) -> str:
    """Why a model built from a config would not take these weights; "" if it would."""
    try:
        with torch.device("meta"):
            fresh: nn.Module = type(model)(type(config).from_dict(config.to_dict()))
    except Exception as error:  # configurations refuse in many ways
        return f"its config refuses: {str(error).strip().splitlines()[-1][:200]}"
    shapes = {name: t.shape for name, t in model.state_dict().items()}
    for name, tensor in fresh.state_dict().items():
        if shapes.get(name) != tensor.shape:
            return f"its config cannot say that {name} is {tuple(shapes.get(name, ()))}"
    return ""


def require_plain(model: nn.Module) -> None:
    """Plain ``from_pretrained`` will load what ``save_pretrained`` writes of this model.

    Raises:
        SteppeError: it will not, e.g. since the heads do not divide the width evenly.
    """
    why = fit_config(model)
    if why:
        raise SteppeError(
            "a model is loadable by plain from_pretrained when its config says all its shapes",
            got=f"{type(model).__name__}: {why}",
            way_out="remove the same number of heads and neurons in every block, "
            "or save with save_removed and load with load_removed",
        )
