"""A call's arguments as a row of numbers per window, and what all windows share."""

from __future__ import annotations

from collections import UserDict
from typing import Any

import pytest
import torch
from torch import Tensor

from steppe import SteppeError
from steppe.engine.blockwise.call_form import CallForm, named

WINDOW, WIDTH, HEADS = 4, 3, 2


class Cache:
    """As a model's own: each call appends to it."""

    def __init__(self, keys: Tensor | None) -> None:
        self.keys, self.calls = keys, 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Cache) and same(vars(self), vars(other))

    __hash__ = None  # type: ignore[assignment]


def call(windows: list[int]) -> Any:
    """As a block might be called: hidden states, shared keys, biases, masks."""
    count = len(windows)
    each = torch.tensor(windows, dtype=torch.float32)
    hidden = each[:, None, None] + torch.rand(WINDOW, WIDTH, generator=torch.Generator())
    shared: Any = UserDict(full=(each[:, None].expand(count, 5), None))
    return (hidden, 0.5), {
        "window_first": hidden.transpose(0, 1),
        "by_head": each.repeat_interleave(HEADS)[:, None] + torch.arange(2.0),
        "shared": shared,
        "cache": (Cache(each[:, None]), Cache(None)),
        "ids": each.long() + 7,
        "mask": torch.ones(1, 1, WINDOW, WINDOW).tril().expand(count, -1, -1, -1),
        "positions": torch.arange(WINDOW)[None],
        "scale": 2.0,
        "flag": each[:, None] > 100,
    }


def same(a: Any, b: Any) -> bool:
    if isinstance(a, Tensor):
        return a.dtype == b.dtype and torch.equal(a, b)
    if isinstance(a, UserDict | dict):
        return all(same(a[k], b[k]) for k in a)
    if isinstance(a, tuple):
        return all(same(x, y) for x, y in zip(a, b, strict=True))
    return bool(a == b)


def test_windows_come_back_in_any_order_and_number() -> None:
    form = CallForm(call([2, 3]), call([1, 2, 3]), "block")
    rows = form.pack(call([5, 6, 7, 8]))
    assert rows.shape == (4, form.width)
    # masks and positions are shared
    assert form.width == 2 * WINDOW * WIDTH + 2 * HEADS + 5 + 1 + 1
    assert same(form.unpack(rows), call([5, 6, 7, 8]))
    assert same(form.unpack(rows[[3, 0]]), call([8, 5]))
    padded = torch.nn.functional.pad(rows[:1], (0, 3))
    assert same(form.unpack(padded), call([5]))


def test_a_container_that_the_call_changes_is_not_the_forms() -> None:
    form = CallForm(call([2, 3]), call([1, 2, 3]), "block")
    rows = form.pack(call([4]))
    args, kwargs = form.unpack(rows)
    kwargs["shared"]["more"] = 1
    for cache in kwargs["cache"]:
        cache.keys, cache.calls = torch.ones(7), 1
    assert same(form.unpack(rows), call([4]))
    assert "more" not in form.unpack(rows)[1]["shared"]
    assert args[0].shape == (1, WINDOW, WIDTH)


@pytest.mark.parametrize(
    ("two", "three", "expected"),
    [
        (torch.ones(4), torch.zeros(4), "x, which depends on the text as a whole"),
        (torch.ones(2, 3), torch.ones(3, 5), "x, whose shape depends on the text"),
        (torch.ones(2), torch.ones(4), "x, whose shape depends on the text"),
        (1, 2, "x, which depends on the text"),
        (torch.ones(1), 1, "x, which depends on the text"),
        ({"a": 1}, {"b": 1}, "another form"),
        (torch.tensor([2, 2**24]), torch.tensor([1, 2, 2**24]), "too large"),
    ],
)
def test_what_has_no_place_in_a_row(two: Any, three: Any, expected: str) -> None:
    with pytest.raises(SteppeError, match=expected) as refused:
        CallForm(((), {"x": two}), ((), {"x": three}), "model.layers.3")
    assert "model.layers.3" in str(refused.value)
    assert "steppe.sparsify" in str(refused.value)


def test_places_in_words() -> None:
    assert named("[0][0]") == "argument 0"
    assert named("[1]['past'].layers[0]") == "past.layers[0]"
