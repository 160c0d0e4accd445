"""What is to be found in the images of a batch, as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOTHING = -1
"""The label of rows that only fill up."""
COLUMNS = 6
"""Left, top, right, bottom (shares of the image), label, difficult."""


def padded(each: Sequence[Tensor]) -> Tensor:
    """The objects of several images, filled up with rows of label -1 to the most of them.

    One tensor goes through loaders, closures and devices as labels do.

    Args:
        each: of each image, ``[objects, 6]``: left, top, right, bottom (shares of the image),
            label (from 0), difficult (0 or 1).

    Returns:
        ``[images, most, 6]``, float32; most is at least 1.

    Example:
        >>> padded([torch.zeros(0, 6), torch.ones(1, 6)])[:, 0, 4]
        tensor([-1.,  1.])
    """
    most = max([1, *(len(own) for own in each)])
    whole = torch.zeros(len(each), most, COLUMNS)
    whole[..., 4] = NOTHING
    for row, own in zip(whole, each, strict=True):
        row[: len(own)] = own
    return whole


def objects(targets: Tensor) -> list[Tensor]:
    """Of each image what `padded` was given.

    Args:
        targets: ``[images, most, 6]``.
    """
    return [own[own[:, 4] >= 0] for own in targets]
