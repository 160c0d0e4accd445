"""The best pair of a row is that of a search through all of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from steppe.coupling.swaps.pairs import GroupPairs, Offers, RowPairs


def grams(columns: int) -> dict[str, Tensor]:
    """Inputs that are independent, alike, the same but for their size, or partly never seen."""
    low = torch.randn(3, columns)
    x = torch.randn(200, columns)
    alike = x @ torch.randn(columns, columns) / columns**0.5 + 5.0 * torch.rand(columns)
    unseen = x.clone()
    unseen[:, ::3] = 0.0
    inputs = {"independent": x, "alike": alike, "same": torch.randn(200, 3) @ low, "unseen": unseen}
    return {name: x.T @ x / len(x) for name, x in inputs.items()}


def offered(gram: Tensor, rows: int, kept: float) -> Offers:
    w, columns = torch.randn(rows, len(gram)), len(gram)
    mask = torch.rand(rows, columns) < kept
    c = (w * ~mask) @ gram
    square = w.square() * gram.diagonal()
    infinity = torch.inf
    return Offers(
        prune=(square + 2 * w * c).masked_fill(~mask, infinity),
        restore=(square - 2 * w * c).masked_fill(mask, infinity),
        u=w,
    )


def table(gram: Tensor, offers: Offers) -> Tensor:
    """The changes of all pairs ``[rows, p, q]``."""
    both = offers.u[:, :, None] * offers.u[:, None, :] * gram
    return offers.prune[:, :, None] + offers.restore[:, None, :] - 2 * both


@pytest.mark.parametrize("name", ["independent", "alike", "same", "unseen"])
@pytest.mark.parametrize("kept", [0.03, 0.3, 0.9])
def test_of_all_pairs_of_a_row(name: str, kept: float) -> None:
    gram = grams(70)[name]
    offers = offered(gram, 40, kept)
    change, p, q = RowPairs(gram).best(offers)
    every = table(gram, offers)
    least = every.flatten(1).amin(1)
    # where the least is above zero, no exchange is made and none need be found
    torch.testing.assert_close(change.clamp(max=0), least.clamp(max=0), rtol=1e-5, atol=1e-6)
    rows = torch.arange(40)[least < 0]
    assert len(rows)
    torch.testing.assert_close(every[rows, p[rows], q[rows]], least[rows], rtol=1e-5, atol=1e-6)


def test_rows_with_nothing_to_exchange() -> None:
    gram = grams(12)["alike"]
    for kept in (0.0, 1.1):
        assert (RowPairs(gram).best(offered(gram, 5, kept))[0] >= 0).all()
        assert (GroupPairs(gram, 4).best(offered(gram, 5, kept))[0] >= 0).all()


@pytest.mark.parametrize("kept", [0.0, 1.1])
def test_rows_with_nothing_to_exchange_are_seen_at_once(
    kept: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of all their pairs would be a million numbers a row at 1,024 columns."""
    widths: list[int] = []
    among = RowPairs._among
    monkeypatch.setattr(
        RowPairs, "_among", lambda *given: widths.append(given[-1]) or among(*given)
    )
    gram = grams(70)["alike"]
    RowPairs(gram).best(offered(gram, 5, kept))
    assert len(widths) == 1


@pytest.mark.parametrize("size", [2, 4, 6])
def test_of_all_pairs_within_groups(size: int) -> None:
    gram = grams(12)["alike"]
    offers = offered(gram, 40, 0.5)
    change, p, q = GroupPairs(gram, size).best(offers)
    group = torch.arange(12) // size
    every = table(gram, offers).masked_fill(group[:, None] != group, torch.inf)
    least = every.flatten(1).amin(1)
    torch.testing.assert_close(change, least, rtol=1e-5, atol=1e-6)
    finite = least.isfinite()
    assert torch.equal((p // size)[finite], (q // size)[finite])
    rows = torch.arange(40)[finite]
    torch.testing.assert_close(every[rows, p[rows], q[rows]], least[rows], rtol=1e-5, atol=1e-6)
