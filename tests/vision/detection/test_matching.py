"""Each object has an anchor, and each near anchor an object."""

import torch

from steppe.vision.detection.boxes import cornered, decode, iou
from steppe.vision.detection.matching import match


def drawn(n, seed):
    draw = torch.Generator().manual_seed(seed)
    centres, sizes = torch.rand(n, 2, generator=draw), 0.1 + torch.rand(n, 2, generator=draw) / 3
    return torch.cat([centres, sizes], 1)


def test_matching_is_that_of_a_loop():
    for seed in range(20):
        anchors, boxes = drawn(60, seed), cornered(drawn(5, seed + 50))
        labels = torch.arange(5.0)[:, None]
        found = torch.cat([boxes, labels, torch.zeros(5, 1)], 1)
        classes, offsets = match(found, anchors, 0.4)
        overlap = iou(boxes, cornered(anchors))
        owner = {}
        for anchor in range(60):
            best = int(overlap[:, anchor].argmax())
            if overlap[best, anchor] >= 0.4:
                owner[anchor] = best
        for row in range(5):
            owner[int(overlap[row].argmax())] = row
        wanted = [owner.get(anchor, -1) + 1 for anchor in range(60)]
        assert classes.tolist() == wanted
        positive = classes > 0
        seen = decode(offsets[positive], anchors[positive])
        torch.testing.assert_close(seen, boxes[classes[positive] - 1], atol=1e-5, rtol=1e-4)
        assert float(offsets[~positive].abs().sum()) == 0.0


def test_an_image_without_objects_is_background():
    classes, offsets = match(torch.zeros(0, 6), drawn(8, 0))
    assert classes.tolist() == [0] * 8
    assert offsets.shape == (8, 4)
