"""What a mean accuracy hides: calibration error, class accuracy, changed examples."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError


def _check(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 2 or len(logits) != len(labels) or not len(labels):
        raise SteppeError(
            "logits are [n, classes] with one label each, n above 0",
            got=f"{list(logits.shape)} and {list(labels.shape)}",
        )
    if not bool(torch.isfinite(logits).all()):
        raise SteppeError(
            "logits must be finite", got="NaN or infinity", way_out="check the weights"
        )


def calibration_error(logits: Tensor, labels: Tensor, *, bins: int = 15) -> float:
    """Expected calibration error (ECE): how far confidence is from accuracy.

    ``sum_b n_b / n |acc_b - conf_b|`` over equally wide bins of the confidence max softmax.

    Args:
        logits: ``[n, classes]``.
        labels: ``[n]``.
        bins: how many.

    Returns:
        Between 0 (confidence equals accuracy in every bin) and 1.

    Raises:
        SteppeError: no example, shapes that do not fit, logits that are not finite, no bin.

    Source: Guo et al. 2017, eq. 3.

    Example:
        >>> calibration_error(torch.tensor([[9e9, 0.0], [9e9, 0.0]]), torch.tensor([0, 1]))
        0.5
    """
    _check(logits, labels)
    if bins < 1:
        raise SteppeError("calibration needs at least one bin", got=bins)
    confidence, guess = logits.double().softmax(1).max(1)
    right = (guess == labels).double()
    # a bin is (low, high], as in the source; the smallest double above 0 is in the first
    bin_of = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gaps = torch.zeros(bins, dtype=torch.double, device=logits.device)
    gaps.index_add_(0, bin_of, right - confidence)
    return float(gaps.abs().sum() / len(labels))


def class_accuracy(logits: Tensor, labels: Tensor) -> list[float | None]:
    """The accuracy within each class; None for a class without an example.

    Args:
        logits: ``[n, classes]``.
        labels: ``[n]``.

    Returns:
        A fraction for each class.

    Raises:
        SteppeError: as `calibration_error`.

    Example:
        >>> class_accuracy(torch.tensor([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]), torch.tensor([0, 1]))
        [1.0, 0.0, None]
    """
    _check(logits, labels)
    classes = logits.shape[1]
    right = labels[logits.argmax(1) == labels].bincount(minlength=classes)
    counts = labels.bincount(minlength=classes)
    return [int(r) / int(n) if n else None for r, n in zip(right, counts, strict=True)]


@dataclass(frozen=True)
class Disagreement:
    """Two networks on the same examples.

    Args:
        share: of all examples, those on which the predictions differ.
        lost: of all examples, those that the first has right and the second wrong.
        won: of all examples, those that the first has wrong and the second right.
        worst_class: the class whose accuracy drops most from the first to the second.
        worst_drop: by how much (a fraction; below 0: no class drops).
        examples: indices of the lost examples, the second's highest confidence first.
    """

    share: float
    lost: float
    won: float
    worst_class: int
    worst_drop: float
    examples: list[int]


def disagreement(first: Tensor, second: Tensor, labels: Tensor) -> Disagreement:
    """The examples on which two networks disagree, even where their accuracies are equal.

    Args:
        first: logits ``[n, classes]``, usually of the dense network.
        second: logits ``[n, classes]``, usually of the sparse network.
        labels: ``[n]``.

    Raises:
        SteppeError: as `calibration_error`, or the two differ in shape.

    Source: Hooker et al. 2019 (pruning-identified exemplars).

    Example:
        >>> dense = torch.tensor([[2.0, 0.0], [0.0, 2.0]])
        >>> disagreement(dense, dense.flip(0), torch.tensor([0, 0])).share
        1.0
    """
    _check(first, labels)
    _check(second, labels)
    if first.shape != second.shape:
        raise SteppeError(
            "two networks are compared on the same examples and classes",
            got=f"{list(first.shape)} and {list(second.shape)}",
        )
    before, after = first.argmax(1), second.argmax(1)
    lost = (before == labels) & (after != labels)
    won = (before != labels) & (after == labels)
    pairs = zip(class_accuracy(first, labels), class_accuracy(second, labels), strict=True)
    drops = [a - b if a is not None and b is not None else -2.0 for a, b in pairs]
    worst = max(range(len(drops)), key=drops.__getitem__)
    confidence = second.double().softmax(1).max(1).values
    indices = lost.nonzero().squeeze(1)
    order = confidence[indices].argsort(descending=True, stable=True)
    return Disagreement(
        share=float((before != after).double().mean()),
        lost=float(lost.double().mean()),
        won=float(won.double().mean()),
        worst_class=worst,
        worst_drop=drops[worst],
        examples=indices[order].tolist(),
    )
