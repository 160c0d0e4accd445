"""Coupled channels: masks and positions agree, whatever the slices."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice, masks_of, positions, require_fit


def pair() -> tuple[Group, Group]:
    """Two producers whose outputs are concatenated and read by one weight; units of two rows."""
    a = Group(
        "a.weight",
        (
            Slice("a.weight", 0, torch.arange(4).view(2, 2), "output"),
            Slice("a.bias", 0, torch.arange(4).view(2, 2), "bias"),
            Slice("c.weight", 1, torch.arange(4).view(2, 2), "input"),
        ),
    )
    b = Group(
        "b.weight",
        (
            Slice("b.weight", 0, torch.arange(3).view(3, 1), "output"),
            Slice("c.weight", 1, torch.arange(4, 7).view(3, 1), "input"),
        ),
    )
    return a, b


def tensors() -> dict[str, torch.Tensor]:
    return {
        "a.weight": torch.arange(8.0).view(4, 2),
        "a.bias": torch.arange(4.0),
        "b.weight": torch.arange(6.0).view(3, 2),
        "c.weight": torch.arange(14.0).view(2, 7),
    }


def test_members_are_the_rows_of_each_unit() -> None:
    a, _ = pair()
    member_indices = a.members(tensors(), ("output", "bias"))
    assert member_indices.tolist() == [[0, 1, 2, 3, 0, 1], [4, 5, 6, 7, 2, 3]]
    columns = a.members(tensors(), ("input",))
    assert columns.tolist() == [[0, 7, 1, 8], [2, 9, 3, 10]]


def test_masks_and_positions_tell_the_same() -> None:
    groups, by_name = pair(), tensors()
    kept = {"a.weight": torch.tensor([False, True]), "b.weight": torch.tensor([True, False, True])}
    masks = masks_of(groups, kept, by_name)
    stays = positions(groups, kept, {name: t.shape for name, t in by_name.items()})
    assert stays["c.weight"][1].tolist() == [2, 3, 4, 6]
    for name, tensor in by_name.items():
        cut = tensor
        for dim, index in stays[name].items():
            cut = cut.index_select(dim, index)
        assert torch.equal(cut.flatten(), tensor[masks[name]])


def test_what_is_kept_whole_has_no_positions() -> None:
    groups, by_name = pair(), tensors()
    shapes = {name: t.shape for name, t in by_name.items()}
    assert positions(groups, {"a.weight": torch.ones(2, dtype=torch.bool)}, shapes) == {}
    assert all(bool(m.all()) for m in masks_of(groups, {}, by_name).values())


def test_one_boolean_for_each_unit_and_tensors_that_fit() -> None:
    group, _ = pair()
    shapes = {name: t.shape for name, t in tensors().items()}
    for kept in (torch.ones(3, dtype=torch.bool), torch.tensor([[True], [False]])):
        for decide in (
            lambda kept=kept: masks_of([group], {"a.weight": kept}, tensors()),
            lambda kept=kept: positions([group], {"a.weight": kept}, shapes),
        ):
            with pytest.raises(SteppeError, match=r"for the 2 units of a\.weight") as error:
                decide()
            assert "\n" not in str(error.value)
    require_fit([group], tensors())
    for wrong in ({}, tensors() | {"c.weight": torch.ones(2, 3)}):
        with pytest.raises(SteppeError, match="of other groups than this model's"):
            require_fit([group], wrong)
