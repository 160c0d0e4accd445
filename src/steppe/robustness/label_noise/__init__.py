"""Label noise: wrong training labels, to test how much a method fits them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry

Rule = Callable[[Tensor, int, torch.Generator], Tensor]

LABEL_NOISE: Registry[Rule] = Registry("label noise", "steppe.robustness.label_noise")
"""Name -> rule: (true labels [k], classes, generator) -> wrong labels [k]."""


@dataclass(frozen=True)
class NoisyLabels:
    """Labels of which some are wrong.

    Args:
        labels: ``[n]``, what a network is trained on.
        clean: ``[n]``, as they were.
    """

    labels: Tensor
    clean: Tensor

    @property
    def changed(self) -> Tensor:
        """Booleans ``[n]``: which are wrong."""
        return self.labels != self.clean


def noisy_labels(
    labels: Tensor, classes: int, *, rate: float, kind: str = "symmetric", seed: int = 0
) -> NoisyLabels:
    """Exactly round(rate n) labels, chosen at random, become wrong.

    Every chosen label changes: at rate 0.5 half of them are wrong. (Some code draws symmetric
    noise from all classes, the true one too; then fewer are.)

    Args:
        labels: ``[n]``, whole numbers in 0 .. classes - 1.
        classes: how many there are.
        rate: share of wrong labels, in [0, 1].
        kind: "symmetric", any other class alike; or "pair_flip", the next class.
        seed: of the choice, >= 0. A higher rate keeps the wrong labels of a lower one wrong.

    Returns:
        The labels, and what they were.

    Raises:
        SteppeError: a rate outside [0, 1], fewer than two classes, labels that are none.

    Example:
        >>> noisy_labels(torch.tensor([0, 1, 2]), 3, rate=1.0, kind="pair_flip").labels.tolist()
        [1, 2, 0]
    """
    rule = LABEL_NOISE[kind]
    if not 0.0 <= rate <= 1.0 or classes < 2 or seed < 0:
        raise SteppeError(
            "label noise needs a rate in [0, 1], two classes at least and a seed >= 0",
            got=f"rate {rate}, {classes} classes, seed {seed}",
        )
    if len(labels) and not (0 <= int(labels.min()) and int(labels.max()) < classes):
        raise SteppeError(
            f"labels must lie in 0 .. {classes - 1}",
            got=f"{int(labels.min())} to {int(labels.max())}",
        )
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    wrong = rule(labels[order], classes, generator)
    chosen = order[: round(rate * len(labels))]
    noisy = labels.clone()
    noisy[chosen] = wrong[: len(chosen)]
    return NoisyLabels(noisy, labels)
