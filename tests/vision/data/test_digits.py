import torch
from sklearn.datasets import load_digits

from steppe.vision.data import load


def test_the_split_is_stratified_disjoint_and_complete():
    data = load("digits")
    assert (len(data.train), len(data.test), data.num_classes) == (1297, 500, 10)
    whole = torch.from_numpy(load_digits().target).bincount()
    assert torch.equal(data.train.labels.bincount() + data.test.labels.bincount(), whole)
    assert (data.test.labels.bincount() - whole * 500 / 1797).abs().max() <= 1


def test_no_grey_level_is_lost():
    data = load("digits")
    levels = data.train.images.unique()
    assert len(levels) == 17
    assert (levels[0], levels[-1]) == (0, 255)
    original = sorted(tuple(im.astype(int).flatten()) for im in load_digits().images)
    both = torch.cat([data.train.images, data.test.images]).float() * 16 / 255
    assert sorted(tuple(im.round().int().flatten().tolist()) for im in both) == original
