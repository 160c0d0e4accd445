"""Calibration, classes, disagreement: against definitions written out example by example."""

from __future__ import annotations

import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.robustness.calibration_error import calibration_error, class_accuracy, disagreement


def by_hand(logits: torch.Tensor, labels: torch.Tensor, bins: int) -> float:
    total = 0.0
    probabilities = logits.double().softmax(1)
    for b in range(bins):
        low, high = b / bins, (b + 1) / bins
        inside = [
            (float(p.max()), int(p.argmax()) == int(y))
            for p, y in zip(probabilities, labels, strict=True)
            if low < float(p.max()) <= high
        ]
        if inside:
            confidence = sum(c for c, _ in inside) / len(inside)
            accuracy = sum(r for _, r in inside) / len(inside)
            total += len(inside) / len(labels) * abs(accuracy - confidence)
    return total


@pytest.mark.parametrize("bins", [1, 7, 15])
@pytest.mark.parametrize("scale", [0.1, 1.0, 8.0])
def test_the_error_is_its_definition(bins: int, scale: float) -> None:
    torch.manual_seed(0)
    logits, labels = scale * torch.randn(300, 10), torch.randint(10, (300,))
    error = calibration_error(logits, labels, bins=bins)
    assert error == pytest.approx(by_hand(logits, labels, bins), abs=1e-12)
    assert 0 <= error <= 1


def test_a_network_as_sure_as_it_is_right_is_calibrated() -> None:
    # sure to 3/4, right in three of four
    logits = torch.tensor([[0.0, 0.0, 0.0], [0.0, 0.0, 0.0]]).index_fill(
        1, torch.tensor([0]), float(torch.log(torch.tensor(6.0)))
    )
    logits = logits.repeat(2, 1)
    assert calibration_error(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(0, abs=1e-7)


def test_classes_average_to_the_accuracy() -> None:
    torch.manual_seed(1)
    logits, labels = torch.randn(200, 5), torch.randint(4, (200,))
    own = class_accuracy(logits, labels)
    assert own[4] is None
    counts = labels.bincount(minlength=5).tolist()
    whole = sum(a * n for a, n in zip(own, counts, strict=True) if a is not None) / 200
    assert whole == pytest.approx(float((logits.argmax(1) == labels).double().mean()))


def test_disagreement_counts_what_changed() -> None:
    torch.manual_seed(2)
    first, second = torch.randn(400, 6), torch.randn(400, 6)
    labels = torch.randint(6, (400,))
    change = disagreement(first, second, labels)
    a, b = first.argmax(1) == labels, second.argmax(1) == labels
    assert change.lost - change.won == pytest.approx(float(a.double().mean() - b.double().mean()))
    assert change.share >= change.lost + change.won
    assert sorted(change.examples) == (a & ~b).nonzero().squeeze(1).tolist()
    sure = second.softmax(1).max(1).values[change.examples]
    assert bool((sure[:-1] >= sure[1:] - 1e-7).all())
    drops = [
        x - y  # type: ignore[operator]
        for x, y in zip(class_accuracy(first, labels), class_accuracy(second, labels), strict=True)
    ]
    assert change.worst_drop == pytest.approx(max(drops))
    assert drops[change.worst_class] == max(drops)
    same = disagreement(first, first, labels)
    assert (same.share, same.lost, same.won, same.examples) == (0, 0, 0, [])


def test_what_cannot_be_assessed_is_refused() -> None:
    x, y = torch.zeros(2, 3), torch.zeros(2, dtype=torch.long)
    for call in (
        lambda: calibration_error(torch.zeros(0, 3), y[:0]),
        lambda: calibration_error(x, y[:1]),
        lambda: calibration_error(x, y, bins=0),
        lambda: class_accuracy(x * float("nan"), y),
        lambda: disagreement(x, torch.zeros(2, 4), y),
    ):
        with pytest.raises(SteppeError):
            call()
