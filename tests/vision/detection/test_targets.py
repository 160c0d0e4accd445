"""Objects of several images in one tensor, and back."""

import torch

from steppe.vision.detection.targets import objects, padded


def test_padded_objects_come_back():
    each = [torch.rand(k, 6) for k in (3, 0, 1)]
    whole = padded(each)
    assert whole.shape == (3, 3, 6)
    for own, back in zip(each, objects(whole), strict=True):
        assert torch.equal(own, back)


def test_a_batch_without_objects_has_one_empty_row():
    assert padded([torch.zeros(0, 6)]).shape == (1, 1, 6)
