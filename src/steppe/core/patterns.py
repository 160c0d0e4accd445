"""Short shell patterns for a set of names, as ``include`` and ``exclude`` take them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from fnmatch import fnmatchcase

_NAMED = 12  # names that are written out; more are told by what they share


def patterns_of(names: Iterable[str], others: Iterable[str]) -> list[str]:
    """The fewest patterns ``prefix.*`` that match all names and none of the others.

    A name that ends in ``weight`` and stands alone in its module is called by the module.

    Args:
        names: of weights.
        others: weights that must not match.

    Example:
        >>> patterns_of(["layer1.0.conv.weight", "layer1.1.conv.weight"], ["fc.weight"])
        ['layer1.*']
        >>> patterns_of(["conv1.weight"], ["layer1.0.conv.weight"])
        ['conv1']
    """
    wanted, unwanted = set(names), set(others)
    patterns: list[str] = []
    for name in sorted(wanted):
        if any(_covers(p, name) for p in patterns):
            continue
        parts = name.split(".")
        prefixes = (".".join(parts[:i]) for i in range(1, len(parts)))
        pure = (p for p in prefixes if not any(o.startswith(f"{p}.") for o in unwanted))
        prefix = next(pure, None)
        if prefix is None:
            patterns.append(name)
        elif f"{prefix}.weight" == name:
            patterns.append(prefix)
        else:
            patterns.append(f"{prefix}.*")
    return patterns


def _covers(pattern: str, name: str) -> bool:
    return pattern.endswith(".*") and name.startswith(pattern[:-1])


def matches(name: str, pattern: str) -> bool:
    """Whether a pattern means a weight, by its own name or its module's.

    Example:
        >>> matches("model.layers.0.mlp.down_proj.weight", "*.down_proj")
        True
    """
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def kinds_of(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Patterns ``*.kind`` that match all of the names and none of the others.

    As `patterns_of` tells parts of a model, this tells layers that many blocks have.

    Args:
        names: of weights.
        others: of weights that must not be matched.

    Example:
        >>> names = [f"layers.{i}.mlp.down_proj.weight" for i in range(3)]
        >>> kinds_of(names, ["layers.0.mlp.up_proj.weight"])
        ['*.down_proj']
    """
    chosen: list[str] = []
    for name in names:
        if any(matches(name, pattern) for pattern in chosen):
            continue
        fitting = (p for p in _candidates(name) if not any(matches(o, p) for o in others))
        chosen.append(next(fitting, name))
    return chosen


def _candidates(name: str) -> Iterator[str]:
    module = name.removesuffix(".weight")
    parts = module.split(".")
    for start in range(len(parts) - 1, 0, -1):
        yield f"*.{'.'.join(parts[start:])}"
    yield ".".join("*" if part.isdigit() else part for part in parts)
    yield module


def listed(names: Sequence[str]) -> str:
    """Names in words; many are told by what they have in common.

    Example:
        >>> listed(["a.weight", "b.weight"])
        'a.weight, b.weight'
        >>> listed([f"layers.{i}.up.weight" for i in range(40)])
        'layers.*.up.weight (40 layers)'
    """
    if len(names) <= _NAMED:
        return ", ".join(names)
    counts: dict[str, int] = {}
    for name in names:
        common = re.sub(r"(?<=\.)\d+(?=\.)|^\d+(?=\.)", "*", name)
        counts[common] = counts.get(common, 0) + 1
    return ", ".join(f"{name} ({n} layers)" if n > 1 else name for name, n in counts.items())
