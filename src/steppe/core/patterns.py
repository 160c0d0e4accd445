"""Short shell patterns for a set of names, as ``include`` and ``exclude`` take them."""

from __future__ import annotations

from collections.abc import Iterable


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
