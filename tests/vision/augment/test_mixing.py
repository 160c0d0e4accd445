"""Mixup and CutMix: images and labels by the same shares, equal for any split over ranks."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.vision.augment import Pipeline
from steppe.vision.augment.cutmix import CutMix
from steppe.vision.augment.kinds import Mixing
from steppe.vision.augment.mixup import Mixup
from steppe.vision.data.base import Split
from steppe.vision.loader import Loader

N, CLASSES = 32, 32


def loader(*mixing: Mixing, **options: int) -> Loader:
    """The i-th image has the level i everywhere, and the label i."""
    images = torch.arange(N, dtype=torch.float32).view(-1, 1, 1, 1).expand(-1, 1, 10, 12)
    split = Split(images, torch.arange(N))
    usual: dict[str, int] = {"seed": 3, "num_classes": CLASSES, "batch_size": 8}
    return Loader(
        split, mean=[0.0], std=[1.0], shuffle=True, drop_last=True,
        augment=Pipeline(mixing=mixing), **(usual | options),
    )  # type: ignore[arg-type] # fmt: skip


def sources(y: Tensor) -> list[tuple[int, int, float]]:
    """Of each label: which two, and the share of the first."""
    found = []
    for row in y:
        share, which = row.topk(2)
        found.append((int(which[0]), int(which[1]), float(share[0])))
    return found


def test_mixup_is_the_mean_that_its_labels_say() -> None:
    for x, y in loader(Mixup(1.0)).epoch(0):
        torch.testing.assert_close(y.sum(1), torch.ones(8))
        for image, (a, b, share) in zip(x, sources(y), strict=True):
            torch.testing.assert_close(image, torch.full_like(image, share * a + (1 - share) * b))


def test_cutmix_is_a_box_whose_area_its_labels_say() -> None:
    for x, y in loader(CutMix(1.0)).epoch(0):
        for image, label in zip(x[:, 0], y, strict=True):
            for level in image.unique():
                area = float((image == level).float().mean())
                assert area == pytest.approx(float(label[int(level)]), abs=1e-6)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("mixing", [(Mixup(),), (CutMix(),), (Mixup(), CutMix())])
def test_ranks_share_out_what_one_process_sees(mixing: tuple[Mixing, ...], world: int) -> None:
    parts = [loader(*mixing, rank=rank, world=world).epoch(1) for rank in range(world)]
    for (x, y), *shares in zip(loader(*mixing).epoch(1), *parts, strict=True):
        for rank, (own, labels) in enumerate(shares):
            assert torch.equal(own, x[rank::world])
            assert torch.equal(labels, y[rank::world])


def test_of_two_kinds_each_batch_takes_one() -> None:
    kinds = set()
    for number in range(8):
        for x, _ in loader(Mixup(1.0), CutMix(1.0)).epoch(number):
            kinds.add("cutmix" if len(x[0].unique()) > 1 else "mixup")
    assert kinds == {"cutmix", "mixup"}


def test_shares_are_drawn_from_beta() -> None:
    from random import Random

    random = Random(0)
    for alpha in (0.2, 1.0):
        drawn = [Mixup(alpha).draw(8, 8, random)[0] for _ in range(4000)]
        assert np.mean(drawn) == pytest.approx(0.5, abs=0.03)
        assert np.var(drawn) == pytest.approx(0.25 / (2 * alpha + 1), rel=0.1)


def test_what_cannot_be_mixed_is_refused() -> None:
    with pytest.raises(SteppeError, match=r"two equal halves.*a batch size that 4 divides"):
        loader(Mixup(), batch_size=6, world=2)
    with pytest.raises(SteppeError, match="number of classes"):
        loader(Mixup(), num_classes=None)  # type: ignore[arg-type]
