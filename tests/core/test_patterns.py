"""Patterns match all that they should and nothing else."""

from __future__ import annotations

from fnmatch import fnmatchcase

import pytest
import torch

from steppe.core.patterns import kinds_of, listed, matches, patterns_of


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


@pytest.mark.parametrize(
    ("names", "others", "patterns"),
    [
        (["conv1.weight"], ["fc.weight"], ["conv1"]),
        (["0.weight"], ["2.weight"], ["0"]),
        (["a.0.up.weight", "a.1.up.weight"], ["a.0.down.weight"], ["*.up"]),
        (["a.0.x.up.weight", "a.1.x.up.weight"], ["a.0.y.up.weight"], ["*.x.up"]),
        (["a.0.up.weight"], ["a.1.up.weight"], ["*.0.up"]),
        (["a.0.up.weight", "b.weight"], ["a.0.down.weight"], ["*.up", "b"]),
        (["m.experts.up"], ["m.experts.down"], ["*.up"]),
    ],
)
def test_the_shortest_patterns(names: list[str], others: list[str], patterns: list[str]) -> None:
    assert kinds_of(names, others) == patterns
    for name in names:
        assert any(matches(name, pattern) for pattern in patterns)
    for name in others:
        assert not any(matches(name, pattern) for pattern in patterns)


def test_many_names_are_told_by_what_they_share() -> None:
    names = [f"layers.{i}.{kind}.weight" for i in range(30) for kind in ("up", "down")]
    assert listed([*names, "head.weight"]) == (
        "layers.*.up.weight (30 layers), layers.*.down.weight (30 layers), head.weight"
    )
    assert listed(names[:3]) == ", ".join(names[:3])
