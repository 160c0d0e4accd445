"""Batches depend on (seed, epoch, batch) alone: not on workers, ranks, or where an epoch begins."""

from functools import partial

import pytest
import torch

import voc_folder
from steppe import SteppeError
from steppe.vision.data.base import Split
from steppe.vision.detection.augment.mirror import Mirror
from steppe.vision.detection.data import load
from steppe.vision.detection.loader import DetectionLoader
from steppe.vision.loader import Loader


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


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_breaks_off_is_one_line_from_any_process(tmp_path, workers):
    root = voc_folder.write(tmp_path / "voc")
    image = root / "JPEGImages/000003.jpg"
    image.write_bytes(image.read_bytes()[:1500])
    broken = load(f"voc:{root}", size=64, say=str)  # of an image only the header is read
    loader = DetectionLoader.of(broken, "train", 8, workers=workers)
    with pytest.raises(SteppeError, match=r"can decode; got .*000003\.jpg") as refused:
        list(loader.epoch(0))
    assert "\n" not in str(refused.value)


def test_of_a_last_batch_that_is_not_full_a_rank_may_have_nothing(data):
    alone = list(DetectionLoader.of(data, "test", 3).epoch(0))
    parts = [
        [x for x, _ in DetectionLoader.of(data, "test", 3, rank=r, world=3).epoch(0)]
        for r in range(3)
    ]
    assert [len(own) for own in parts] == [2, 1, 1]
    assert torch.equal(parts[0][1], alone[1][0])


class _Broken:
    """An augmentation that fails at some images."""

    def seen(self, view, draw):
        if len(view.objects):
            raise RuntimeError("no window")
        return view

    def coloured(self, image, draw):
        return image


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_an_augmentation_names_the_image(data, workers):
    loader = DetectionLoader.of(data, "train", 8, augment=(_Broken(),), workers=workers)
    with pytest.raises(SteppeError, match=r"readable; got .*\.jpg.*no window"):
        list(loader.epoch(0))


def test_a_fault_of_ours_is_not_told_as_one_of_the_data(data, monkeypatch):
    def broken(*_):
        raise AssertionError("of steppe")

    monkeypatch.setattr("steppe.vision.detection.augment.mirror.Mirror.seen", broken)
    loader = DetectionLoader.of(data, "train", 8, augment=(Mirror(),), workers=0)
    with pytest.raises(AssertionError, match="of steppe"):
        list(loader.epoch(0))


@pytest.mark.parametrize("place", ["PIL.Image.open", "PIL.Image.Image.convert"])
def test_memory_that_is_too_small_is_no_fault_of_an_image(tmp_path, monkeypatch, place):
    fresh = load(f"voc:{voc_folder.write(tmp_path / 'voc')}", size=64, say=str)

    def full(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(place, full)
    with pytest.raises(MemoryError, match="no room"):
        list(DetectionLoader.of(fresh, "train", 8, workers=0).epoch(0))


def test_a_worker_writes_pixels_where_this_process_reads_them(data, monkeypatch):
    """What is moved there later leaves holes in the memory of the worker."""
    items, shared, share = (
        DetectionLoader.of(data, "train", 4).items,
        [],
        torch.Tensor.share_memory_,
    )

    def watched(self):
        shared.append(tuple(self.shape))
        return share(self)

    monkeypatch.setattr(torch.Tensor, "share_memory_", watched)
    items.__getitems__([(0, 0), (0, 1)])
    assert not shared, "in this process nothing is moved"
    monkeypatch.setattr("steppe.vision.streaming.worker.get_worker_info", lambda: True)
    images, _ = items.__getitems__([(0, 0), (0, 1)])
    assert shared == [(2, 3, 64, 64)]
    assert images.is_shared()


@pytest.mark.parametrize("kind", [Loader, DetectionLoader])
def test_loaders_of_classes_and_of_objects_refuse_the_same(data, kind):
    if kind is Loader:
        data = Split(torch.zeros(8, 3, 4, 4, dtype=torch.uint8), torch.arange(8))
        made = partial(Loader, data, mean=(0.5,) * 3, std=(0.5,) * 3)
    else:
        made = partial(DetectionLoader, data, "train")
    assert len(made(batch_size=3)) == 3
    assert len(made(batch_size=3, drop_last=True)) == 2
    for size, options, said in (
        (0, {}, "between 1 and the 8 images"),
        (9, {"drop_last": True}, "between 1 and the 8 images"),
        (4, {"rank": 2, "world": 2}, "rank must lie below world"),
        (3, {"world": 2}, "world must divide"),
    ):
        with pytest.raises(SteppeError, match=said):
            made(batch_size=size, **options)
