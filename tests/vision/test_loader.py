import pytest
import torch

from steppe.core.errors import SteppeError
from steppe.vision.augment.crop_flip import CropFlip
from steppe.vision.data.base import ImageData, Split
from steppe.vision.loader import Loader, batches, stream

MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


@pytest.fixture(scope="module")
def split():
    images = torch.randint(0, 256, (53, 3, 8, 8), generator=torch.Generator().manual_seed(0))
    return Split(images.to(torch.uint8), torch.arange(53))  # the label tells which image it is


def make(split, batch_size=8, **options):
    usual = {"mean": MEAN, "std": STD, "seed": 5, "shuffle": True, "augment": CropFlip(2, True)}
    return Loader(split, batch_size, **(usual | options))


def same(a, b):
    a, b = list(a), list(b)
    assert len(a) == len(b)
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))


@pytest.mark.parametrize("start", [0, 1, 4, 7])
def test_an_epoch_goes_on_from_any_batch_bit_for_bit(split, start):
    whole = list(make(split).epoch(3))
    assert same(make(split).epoch(3, start), whole[start:])


def test_other_random_numbers_do_not_matter_and_none_are_used(split):
    expected = list(make(split).epoch(0))
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert same(make(split).epoch(0), expected)
    assert torch.equal(before, torch.get_rng_state())


def test_epochs_and_seeds_differ_but_each_sees_every_image_once(split):
    orders = []
    for seed, epoch in ((5, 0), (5, 1), (6, 0)):
        labels = torch.cat([y for _, y in make(split, seed=seed).epoch(epoch)])
        assert torch.equal(labels.sort().values, split.labels)
        orders.append(labels.tolist())
    assert orders[0] != orders[1] != orders[2] != orders[0]


def test_augmentation_differs_between_batches_and_epochs():
    one = Split(torch.randint(1, 256, (1, 3, 8, 8), dtype=torch.uint8).expand(64, -1, -1, -1),
                torch.zeros(64, dtype=torch.int64))  # fmt: skip
    loader = make(one, batch_size=32)
    (a, _), (b, _) = loader.epoch(0)
    (c, _), _ = loader.epoch(1)
    assert not torch.equal(a, b)
    assert not torch.equal(a, c)


@pytest.mark.parametrize("world", [2, 4])
@pytest.mark.parametrize("normalised", [False, True])
def test_ranks_share_out_what_one_process_sees(split, world, normalised):
    augment = CropFlip(2, flip=True, normalised=normalised)
    shards = [make(split, augment=augment, rank=r, world=world).epoch(2) for r in range(world)]
    for (x, y), *parts in zip(make(split, augment=augment).epoch(2), *shards, strict=True):
        for rank, (part_x, part_y) in enumerate(parts):
            assert torch.equal(part_x, x[rank::world])
            assert torch.equal(part_y, y[rank::world])


def test_of_a_last_batch_that_is_not_full_a_rank_may_have_nothing(split):
    """Then it gets no batch, as from the loader of detection."""
    few = split.take(torch.arange(9))
    options = {"shuffle": False, "augment": None, "world": 4}
    shards = [list(make(few, rank=rank, **options).epoch(0)) for rank in range(4)]
    assert [[len(y) for _, y in own] for own in shards] == [[2, 1], [2], [2], [2]]
    assert shards[0][1][1].tolist() == [8]


def test_normalisation_is_x_minus_mean_over_std(split):
    (x, y) = next(make(split, 53, shuffle=False, augment=None).epoch(0))
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (MEAN, STD))
    torch.testing.assert_close(x, (split.images / 255 - mean) / std)
    assert torch.equal(y, split.labels)


def test_float_images_are_in_the_unit_interval_already(split):
    floats = Split(split.images / 255, split.labels)
    (x, _), (expected, _) = (next(make(s, 53).epoch(0)) for s in (floats, split))
    torch.testing.assert_close(x, expected)


def test_padding_is_black_before_or_the_mean_after_normalisation():
    white = Split(torch.full((4, 3, 8, 8), 255, dtype=torch.uint8), torch.zeros(4).long())
    darkest = {}
    for normalised in (False, True):
        augment = CropFlip(8, flip=False, normalised=normalised)
        x, _ = next(make(white, 4, augment=augment).epoch(0))
        darkest[normalised] = float(x[:, 0].min())
    assert darkest[False] == pytest.approx(-MEAN[0] / STD[0])
    assert darkest[True] == 0.0


def test_dtype_and_memory_format(split):
    loader = make(split, dtype=torch.bfloat16, memory_format=torch.channels_last)
    x, y = next(loader.epoch(0))
    assert (x.dtype, y.dtype) == (torch.bfloat16, torch.int64)
    assert x.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(("drop_last", "count"), [(False, 7), (True, 6)])
def test_length(split, drop_last, count):
    loader = make(split, drop_last=drop_last)
    assert len(loader) == count == len(list(loader.epoch(0)))


def test_images_are_not_changed(split):
    kept = split.images.clone()
    list(make(split).epoch(0))
    assert torch.equal(split.images, kept)


def test_batches_is_the_loader_without_keeping_it(split):
    options = {"mean": MEAN, "std": STD, "seed": 5, "shuffle": True, "augment": CropFlip(2, True)}
    assert same(batches(split, 8, epoch=1, start=2, **options), make(split).epoch(1, 2))


def test_of_takes_each_part_as_it_is_used(split):
    data = ImageData("d", split, None, split, 53, MEAN, STD, augment=CropFlip(1, flip=False))
    train, test = Loader.of(data, "train", 8), Loader.of(data, "test", 8)
    assert (train.shuffle, train.drop_last, train.augment) == (True, True, data.augment)
    assert torch.equal(torch.cat([y for _, y in test]), split.labels)
    assert Loader.of(data, "train", 8, augment=None).augment is None
    with pytest.raises(SteppeError, match=r"got validation.*validation=0\.1"):
        Loader.of(data, "validation", 8)


def test_a_shuffled_loader_must_be_read_by_epoch(split):
    with pytest.raises(SteppeError, match="must be read by epoch"):
        iter(make(split))


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"batch_size": 0}, "batch_size must lie between 1 and the 53 images there are; got 0"),
        ({"batch_size": 54, "drop_last": True}, "got 54"),
        ({"rank": 2, "world": 2}, "rank=2, world=2"),
        ({"world": 3}, "world must divide batch_size; got rank=0, world=3, batch_size=8"),
        ({"mean": (0.5,)}, "each of the 3 channels; got 1 and 3"),
    ],
)
def test_what_cannot_work_is_refused(split, options, rule):
    with pytest.raises(SteppeError, match=rule):
        make(split, **options)


def test_streams_of_neighbouring_numbers_are_unrelated():
    first = {tuple(torch.randint(0, 100, (8,), generator=stream(s, e)).tolist())
             for s in range(20) for e in range(20)}  # fmt: skip
    assert len(first) == 400
