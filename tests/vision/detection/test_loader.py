"""Batches depend on (seed, epoch, batch) alone: not on workers, ranks, or where an epoch begins."""

import pytest
import torch

import voc_folder
from steppe import SteppeError
from steppe.vision.detection.data import load
from steppe.vision.detection.loader import DetectionLoader


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    root = voc_folder.write(tmp_path_factory.mktemp("voc") / "voc")
    return load(f"voc:{root}", size=64, say=str)


def same(a, b):
    pairs = [p for one, two in zip(a, b, strict=True) for p in zip(one, two, strict=True)]
    return all(torch.equal(x, y) for x, y in pairs)


def test_workers_change_nothing(data):
    alone = list(DetectionLoader.of(data, "train", 4).epoch(3))
    with_workers = list(DetectionLoader.of(data, "train", 4, workers=2).epoch(3))
    assert len(alone) == 2
    assert same(alone, with_workers)


def test_an_epoch_may_begin_anywhere(data):
    loader = DetectionLoader.of(data, "train", 2)
    assert same(list(loader.epoch(1))[2:], loader.epoch(1, start=2))


def test_epochs_and_seeds_differ(data):
    first = next(DetectionLoader.of(data, "train", 8).epoch(0))[0]
    assert not torch.equal(first, next(DetectionLoader.of(data, "train", 8).epoch(1))[0])
    assert not torch.equal(first, next(DetectionLoader.of(data, "train", 8, seed=1).epoch(0))[0])
    assert torch.equal(first, next(DetectionLoader.of(data, "train", 8).epoch(0))[0])


def test_ranks_share_a_batch(data):
    whole = next(DetectionLoader.of(data, "train", 4).epoch(0))
    parts = [next(DetectionLoader.of(data, "train", 4, rank=r, world=2).epoch(0)) for r in (0, 1)]
    for rank, (x, y) in enumerate(parts):
        assert torch.equal(x, whole[0][rank::2])
        own = whole[1][rank::2, : y.shape[1]]
        assert torch.equal(y, own)


def test_test_images_come_once_in_order_and_as_they_are(data):
    batches = list(DetectionLoader.of(data, "test", 3).epoch(0))
    assert [len(x) for x, _ in batches] == [3, 1]
    there = torch.cat([scene.objects for scene in data.test])
    assert torch.equal(torch.cat([y.flatten(0, 1) for _, y in batches]), there)
    mean, std = (torch.tensor(c).view(1, 3, 1, 1) for c in (data.mean, data.std))
    levels = (batches[0][0] * std + mean) * 255
    assert float((levels - levels.round()).abs().max()) < 1e-3
    assert 0 <= float(levels.min() + 1e-3)


@pytest.mark.parametrize(
    ("part", "size", "options", "said"),
    [
        ("train", 9, {}, "between 1 and the 8 images"),
        ("train", 3, {"world": 2}, "world must divide"),
        ("validation", 2, {}, "holds images out"),
    ],
)
def test_what_cannot_be_loaded_is_refused(data, part, size, options, said):
    with pytest.raises(SteppeError, match=said):
        DetectionLoader.of(data, part, size, **options)
