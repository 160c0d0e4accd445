"""What is to be found in the images of a batch, as one tensor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

NOTHING = -1
"""The label of rows that only fill up."""
COLUMNS = 6
"""Left, top, right, bottom (shares of the image), label, flag."""
DIFFICULT, CROWD = 1, 2
"""Flags of objects that count neither as found nor as missed; others have 0."""


def padded(each: Sequence[Tensor]) -> Tensor:
    """The objects of several images, filled up with rows of label -1 to the most of them.

    One tensor goes through loaders, closures and devices as labels do.

    Args:
        each: of each image, ``[objects, 6]``: left, top, right, bottom (shares of the image),
            label (from 0), flag (0, `DIFFICULT` or `CROWD`).

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


def learned(targets: Tensor) -> list[Tensor]:
    """Of each image the objects that a network learns to find: all but crowds.

    A crowd's box is around many objects, so that it is no example of one. Difficult objects are
    learned as the others are.

    Args:
        targets: ``[images, most, 6]``.

    Source: the training code of DETR (Carion et al. 2020) and torchvision's leave crowds out, too.

    Example:
        >>> box = [0.0, 0.0, 0.5, 0.5, 3]
        >>> learned(torch.tensor([[[*box, 0], [*box, DIFFICULT], [*box, CROWD]]]))[0][:, 5]
        tensor([0., 1.])
    """
    return [own[own[:, 5] != CROWD] for own in objects(targets)]
