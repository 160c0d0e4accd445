"""Values inside of containers of any kind."""

from __future__ import annotations

from collections import UserDict, namedtuple
from typing import Any

import torch
from torch import Tensor, nn

from steppe.engine.blockwise.containers import leaves, rebuilt

Pair = namedtuple("Pair", ["key", "value"])


class Cache:
    def __init__(self) -> None:
        self.layers, self.length = [Pair(torch.ones(1), None)], 3


class Setting:
    """An object without tensors is a value itself."""

    def __init__(self) -> None:
        self.width = 3


def test_every_container_is_looked_into_and_made_anew() -> None:
    setting, module = Setting(), nn.Linear(1, 1)
    cache = Cache()
    shared: Any = UserDict(a=(torch.zeros(1), [setting]))
    value = ((shared, cache), {"module": module, "none": None})
    seen = dict(leaves(value))
    assert list(seen) == [
        "[0][0]['a'][0]",
        "[0][0]['a'][1][0]",
        "[0][1].layers[0][0]",
        "[0][1].layers[0][1]",
        "[0][1].length",
        "[1]['module']",
        "[1]['none']",
    ]
    assert seen["[1]['module']"] is module
    assert seen["[0][0]['a'][1][0]"] is setting
    other = rebuilt(value, iter(range(7)))
    (mapping, made), named = other
    assert type(mapping) is UserDict
    assert mapping["a"] == (0, [1])
    assert isinstance(made, Cache)
    assert made.layers == [Pair(2, 3)]
    assert made.length == 4
    assert named == {"module": 5, "none": 6}
    assert isinstance(cache.layers[0].key, Tensor), "the first one stays as it was"
    assert cache.length == 3


def test_an_object_that_contains_itself() -> None:
    cache = Cache()
    cache.me = cache  # type: ignore[attr-defined]
    assert [place for place, _ in leaves(cache)][-1] == ".me"
    assert rebuilt(cache, iter("abcd")).me == "d"
    del cache.layers
    assert [x for _, x in leaves(cache)] == [cache]
