"""Means over calibration tokens, beside brute force."""

from __future__ import annotations

import pytest
import torch

from steppe.core.calibration_statistics import CALIBRATION

DEVICE = torch.device("cpu")


def inputs(tokens: int = 50, columns: int = 7) -> torch.Tensor:
    return torch.randn(tokens, columns, generator=torch.Generator().manual_seed(4)) * 3


@pytest.mark.parametrize("name", list(CALIBRATION))
@pytest.mark.parametrize("sizes", [[50], [20, 20, 10], [1] * 50, [0, 49, 1]], ids=str)
def test_a_mean_over_all_tokens(name: str, sizes: list[int]) -> None:
    x = inputs()
    made = CALIBRATION[name](7, DEVICE)
    for part in x.split(sizes):
        made.add(part)
    assert float(made.tokens) == 50
    gram = (x.double().t() @ x.double() / 50).float()
    expected = {
        "gram": gram,
        "activation_square": gram.diagonal()[None],
        "activation_mean": x.mean(0, keepdim=True),
        "activation_variance": x.var(0, correction=0, keepdim=True),
    }[name]
    torch.testing.assert_close(made.mean(), expected, rtol=1e-5, atol=1e-5)
    assert made.sum.dtype == torch.float32


@pytest.mark.parametrize("name", list(CALIBRATION))
def test_sums_of_two_processes_add_up(name: str) -> None:
    x = inputs()
    whole, one, two = (CALIBRATION[name](7, DEVICE) for _ in range(3))
    whole.add(x)
    one.add(x[:13])
    two.add(x[13:])
    one.tokens += two.tokens
    one.sum += two.sum
    torch.testing.assert_close(one.mean(), whole.mean())


@pytest.mark.parametrize("name", list(CALIBRATION))
def test_nothing_seen(name: str) -> None:
    made = CALIBRATION[name](7, DEVICE)
    assert not bool(made.mean().any())


def test_many_tokens_are_counted_exactly() -> None:
    made = CALIBRATION["activation_square"](1, DEVICE)
    made.tokens += 2**24  # beyond which float32 does not count
    made.add(torch.ones(1, 1))
    assert float(made.tokens) == 2**24 + 1


def test_gram_is_symmetric() -> None:
    made = CALIBRATION["gram"](7, DEVICE)
    made.add(inputs())
    torch.testing.assert_close(made.mean(), made.sum.t())


@pytest.mark.parametrize("columns", [1, 100, 128, 129, 300, 1100])
def test_a_gram_in_strips_is_the_whole_one(columns: int) -> None:
    batches = torch.randn(3, 20, columns, generator=torch.Generator().manual_seed(0))
    gram = CALIBRATION["gram"](columns, torch.device("cpu"))
    for batch in batches:
        gram.add(batch)
    rows = batches.flatten(0, 1).double()
    mean_gram = gram.mean()
    torch.testing.assert_close(mean_gram.double(), rows.T @ rows / 60, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(mean_gram, mean_gram.T, rtol=0, atol=1e-6)
