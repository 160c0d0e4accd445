"""What counts as the same, for outputs of all kinds."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.removal.verification import Difference, dense, is_steady, largest_difference

X = torch.zeros(2, 3)


class Model(nn.Module):
    """Gives what it is told to."""

    def __init__(self, give):
        super().__init__()
        self.layer, self.give = nn.Linear(3, 3, bias=False), give
        nn.init.eye_(self.layer.weight)

    def forward(self, x):
        return self.give(self.layer(x))


def test_a_share_of_the_largest_and_no_more():
    one, other = Model(lambda y: y), Model(lambda y: y * (1 + 1e-6))
    assert 0 < largest_difference(one, other, X, False) < 1e-5
    for wrong in (
        lambda y: y * 1.001,
        lambda y: [y, y],
        lambda y: y[:, :2],
        lambda y: {"a": y.nan_to_num() / 0},
    ):
        with pytest.raises(Difference) as error:
            largest_difference(one, Model(wrong), X, False)
        assert error.value.ran


def test_a_model_that_does_not_run_is_told_with_its_module():
    def fail(y):
        raise ValueError("too narrow")

    with pytest.raises(Difference, match="too narrow in inner") as error:
        largest_difference(
            nn.ModuleDict({"inner": Model(lambda y: y)})["inner"],
            Outer(Model(fail)),
            X,
            False,
        )
    assert not error.value.ran


class Outer(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return self.inner(x)


def test_chance_is_a_constant_in_both_modes():
    layers = (nn.Dropout(), nn.RReLU(), nn.AlphaDropout(), nn.Dropout1d())
    noisy = Model(lambda y: y + torch.randn_like(y) + torch.rand(2, 1))
    for training in (True, False):
        assert is_steady(nn.Sequential(Model(lambda y: y), *layers), X, training)
        assert is_steady(noisy, X, training)
    counter = iter(range(99))
    assert not is_steady(Model(lambda y: y * next(counter)), X, False)


def test_outputs_of_other_layouts_are_compared():
    eye = torch.eye(2)
    assert torch.equal(dense(eye.to_sparse()), eye)
    assert dense(torch.nested.nested_tensor([eye[0], eye[1, :1]])).tolist() == [1, 0, 0]
    sparse = Model(lambda y: y.to_sparse())
    assert largest_difference(sparse, sparse, X, False) == 0


def test_infinite_outputs_are_equal_only_where_both_are():
    assert largest_difference(*[Model(lambda y: y.abs().log())] * 2, X, False) == 0
    masked = Model(lambda y: torch.where(y > 0, y, -torch.inf))
    assert largest_difference(masked, masked, X, False) == 0
    with pytest.raises(Difference):
        largest_difference(masked, Model(lambda y: y), X, False)
