"""Exactly so many wrong labels, of the kind that was asked for."""

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.robustness.label_noise import LABEL_NOISE, noisy_labels

LABELS = torch.randint(10, (4001,), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", list(LABEL_NOISE))
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.75, 1.0])
def test_exactly_that_many_are_wrong(kind, rate):
    before = LABELS.clone()
    noisy = noisy_labels(LABELS, 10, rate=rate, kind=kind, seed=3)
    assert int(noisy.changed.sum()) == round(rate * 4001)
    assert torch.equal(noisy.clean, before)
    assert torch.equal(LABELS, before)
    again = noisy_labels(LABELS, 10, rate=rate, kind=kind, seed=3)
    assert torch.equal(noisy.labels, again.labels)
    if rate == 0.5:
        other = noisy_labels(LABELS, 10, rate=rate, kind=kind, seed=4)
        assert not torch.equal(noisy.changed, other.changed)


def test_symmetric_reaches_every_other_class_alike():
    noisy = noisy_labels(LABELS, 10, rate=1.0)
    shifts = torch.bincount((noisy.labels - LABELS) % 10, minlength=10)
    assert shifts[0] == 0
    expected = 4001 / 9
    assert float(((shifts[1:] - expected) ** 2 / expected).sum()) < 26  # chi-square, 8 degrees


def test_pair_flip_is_the_next_class():
    noisy = noisy_labels(LABELS, 10, rate=0.4, kind="pair_flip")
    assert torch.equal(noisy.labels[noisy.changed], (LABELS[noisy.changed] + 1) % 10)


def test_a_higher_rate_contains_a_lower_one():
    low, high = (noisy_labels(LABELS, 10, rate=r) for r in (0.25, 0.5))
    assert (high.changed | ~low.changed).all()
    assert torch.equal(high.labels[low.changed], low.labels[low.changed])


@pytest.mark.parametrize(
    ("labels", "more", "text"),
    [
        (LABELS, {"rate": 1.5}, "rate 1.5"),
        (LABELS, {"rate": 0.5, "kind": "pairs"}, "did you mean pair_flip"),
        (LABELS + 1, {"rate": 0.5}, "1 to 10"),
    ],
)
def test_what_cannot_be_noisy(labels, more, text):
    with pytest.raises(SteppeError, match=text):
        noisy_labels(labels, 10, **more)
