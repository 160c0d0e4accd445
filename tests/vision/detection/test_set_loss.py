"""The loss of a set beside every assignment there is."""

from itertools import permutations

import torch
from torch.nn import functional as F

from steppe.vision.detection.boxes import centred, cornered
from steppe.vision.detection.set_loss import assigned, generalised_iou, set_loss
from steppe.vision.detection.targets import padded

QUERIES, CLASSES = 4, 2


def problem(seed, count):
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.rand(QUERIES, 4, generator=draw) / 2 + 0.2
    logits = torch.randn(QUERIES, CLASSES + 1, generator=draw)
    start = torch.rand(count, 2, generator=draw) / 2
    ends = start + 0.1 + torch.rand(count, 2, generator=draw) / 3
    labels = torch.randint(0, CLASSES, (count, 1), generator=draw).float()
    return boxes, logits, torch.cat([start, ends, labels, torch.zeros(count, 1)], 1)


def price(boxes, logits, found, rows):
    total = 0.0
    for row, one in zip(rows, found, strict=True):
        total -= float(logits[row].softmax(0)[int(one[4])])
        total += 5 * float((boxes[row] - centred(one[:4])).abs().sum())
        total -= 2 * float(generalised_iou(cornered(boxes[row : row + 1]), one[None, :4]))
    return total


def test_the_assignment_is_the_cheapest_of_all():
    for seed in range(6):
        boxes, logits, found = problem(seed, 3)
        rows, columns = assigned(boxes, logits, found)
        order = [int(rows[columns == k]) for k in range(3)]
        best = min(permutations(range(QUERIES), 3), key=lambda r: price(boxes, logits, found, r))
        assert tuple(order) == best


def test_the_loss_is_that_of_the_assignment():
    boxes, logits, found = problem(1, 2)
    rows, columns = assigned(boxes, logits, found)
    classes = torch.full((QUERIES,), CLASSES)
    classes[rows] = found[columns, 4].long()
    entropy = F.cross_entropy(logits, classes, torch.tensor([1.0, 1.0, 0.1]))
    distance = (boxes[rows] - centred(found[columns, :4])).abs().sum()
    apart = sum(
        1 - generalised_iou(cornered(boxes[r : r + 1]), found[c : c + 1, :4]).squeeze()
        for r, c in zip(rows, columns, strict=True)
    )
    got = set_loss(boxes[None], logits[None], padded([found]))
    torch.testing.assert_close(got, entropy + (5 * distance + 2 * apart) / 2)


def test_an_image_without_objects_has_a_loss_and_a_gradient():
    boxes, logits, found = problem(2, 0)
    logits.requires_grad_()
    set_loss(boxes[None], logits[None], padded([found])).backward()
    assert float(logits.grad.abs().sum()) > 0
