"""Patterns match all that they should and nothing else."""

from __future__ import annotations

from fnmatch import fnmatchcase

import torch

from steppe.core.patterns import patterns_of


def matched(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name.rpartition(".")[0], pattern)


def test_patterns_divide_any_two_sets_of_names() -> None:
    draws = torch.Generator().manual_seed(0)
    every = [
        f"{a}.{b}.{c}" for a in ("l1", "l10", "x") for b in "01" for c in ("weight", "in_proj")
    ]
    every += ["weight", "x.weight", "l1.mix"]
    for _ in range(200):
        side = torch.rand(len(every), generator=draws) < 0.5
        some = [n for n, here in zip(every, side.tolist(), strict=True) if here]
        others = [n for n in every if n not in some]
        patterns = patterns_of(some, others)
        assert all(any(matched(p, n) for p in patterns) for n in some)
        assert not any(matched(p, n) for p in patterns for n in others)


def test_a_whole_part_of_the_model_is_one_pattern() -> None:
    names = [f"layer{i}.{j}.conv.weight" for i in range(3) for j in range(4)]
    assert patterns_of(names, ["fc.weight"]) == ["layer0.*", "layer1.*", "layer2.*"]
