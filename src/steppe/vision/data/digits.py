"""scikit-learn's 1,797 handwritten digits of 8 x 8 pixels: nothing to download."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.vision.data import DATASETS
from steppe.vision.data.base import Rows, Source
from steppe.vision.data.labels import stratified_order

TEST_SIZE = 500


@DATASETS.register("digits")
def digits(size: int | None = None) -> Source:
    """1,297 digits to train on, 500 to test on; the values 0..16 are spread over 0..255.

    The split is stratified and always the same, so that results of different seeds compare.

    Args:
        size: must be None or 8.

    Returns:
        The source, grey images [n, 1, 8, 8].

    Raises:
        SteppeError: another size, or scikit-learn is not installed.

    Source:
        Alpaydin & Kaynak 1998, "Optical recognition of handwritten digits", UCI.

    Example:
        >>> len(digits().train.labels), len(digits().test.labels)
        (1297, 500)
    """
    if size not in (None, 8):
        raise SteppeError("the digits are 8 x 8", got=f"size={size}", way_out="leave size out")
    sklearn = require("sklearn.datasets", install="scikit-learn", purpose="the digits dataset")
    bunch = sklearn.load_digits()
    images = (torch.from_numpy(bunch.images) * (255 / 16)).round().to(torch.uint8)[:, None]
    labels = torch.from_numpy(bunch.target).long()
    order = stratified_order(labels, seed=0)
    test, train = (rows.sort().values for rows in (order[:TEST_SIZE], order[TEST_SIZE:]))
    return Source(
        train=_rows(images[train], labels[train]),
        test=_rows(images[test], labels[test]),
        classes=tuple("0123456789"),
    )


def _rows(images: Tensor, labels: Tensor) -> Rows:
    def pick(chosen: Sequence[int]) -> Tensor:
        return images[torch.as_tensor(chosen)]

    return Rows(labels.tolist(), pick, "row {} of digits".format)
