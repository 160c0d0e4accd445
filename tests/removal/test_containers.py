"""No tensor hides in what a model returns."""

from __future__ import annotations

from collections import deque, namedtuple
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
from torch import nn

from steppe.removal.containers import map_tensors, tensors_of

Pair = namedtuple("Pair", "one other")
A, B = torch.zeros(1), torch.ones(2)


@dataclass
class Output:
    first: torch.Tensor
    more: list = field(default_factory=list)


class Slotted:
    __slots__ = ("inside", "unset")

    def __init__(self, inside):
        self.inside = inside


def test_tensors_in_containers_of_all_kinds():
    both = [A, B]
    loop = SimpleNamespace(inside=both)
    loop.itself = loop
    kinds = {
        "nested": [A, ({"x": {"y": B}},)],
        "named tuple": Pair(A, Pair(B, None)),
        "dataclass": Output(A, [{"b": B}]),
        "object": SimpleNamespace(a=SimpleNamespace(a=A), b=[B]),
        "slots": Slotted(both),
        "deque": deque(both),
        "itself": loop,
        "packed": nn.utils.rnn.PackedSequence(A, B),
    }
    for kind, tree in kinds.items():
        assert {id(t) for t in tensors_of(tree)} == {id(A), id(B)}, kind


def test_arrays_count_and_generators_are_used_up_only_on_request():
    assert [t.tolist() for t in tensors_of({"a": B.numpy(), "words": B.numpy().astype(str)})] == [
        [1.0, 1.0]
    ]
    made = (t for t in (A, [B]))
    assert tensors_of(made) == []
    assert [id(t) for t in tensors_of(made, consume=True)] == [id(A), id(B)]


def test_outputs_of_transformers():
    from transformers import DynamicCache
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    out = BaseModelOutputWithPooling(last_hidden_state=A, hidden_states=(B, B))
    assert [id(t) for t in tensors_of(out)] == [id(A), id(B), id(B)]
    cache = DynamicCache()
    cache.update(torch.zeros(1, 2, 3, 4), torch.zeros(1, 2, 3, 4), 0)
    assert tensors_of({"cache": cache}) == []  # only the next call reads it


def test_modules_functions_and_words_hold_none():
    assert tensors_of([nn.Linear(2, 2), len, "text", 3, None, torch.float32, Output]) == []


def test_changed_tensors_lie_as_before():
    changed = map_tensors({"a": [A, Pair(B, "word")], "n": 3}, lambda t: t + 1)
    assert changed == {"a": [A + 1, Pair(changed["a"][1].one, "word")], "n": 3}
    assert torch.equal(changed["a"][1].one, B + 1)
