"""The loss beside a loop over images and anchors."""

import torch
from torch.nn import functional as F

from steppe.vision.detection.matching import match
from steppe.vision.detection.ssd_loss import hard_negatives, ssd_loss
from steppe.vision.detection.targets import padded

CLASSES = 3


def problem(seed, counts=(2, 0, 3)):
    draw = torch.Generator().manual_seed(seed)
    anchors = torch.rand(40, 4, generator=draw) * 0.4 + 0.2
    each = []
    for count in counts:
        start = torch.rand(count, 2, generator=draw) * 0.5
        ends = start + 0.2 + torch.rand(count, 2, generator=draw) * 0.3
        labels = torch.randint(0, CLASSES, (count, 1), generator=draw).float()
        each.append(torch.cat([start, ends, labels, torch.zeros(count, 1)], 1))
    offsets = torch.randn(len(counts), 40, 4, generator=draw)
    logits = torch.randn(len(counts), 40, 1 + CLASSES, generator=draw)
    return offsets, logits, each, anchors


def slow_loss(offsets, logits, each, anchors):
    """Liu et al., anchor by anchor."""
    total, positives = torch.zeros(()), 0
    for image, found in enumerate(each):
        classes, wanted = match(found, anchors)
        losses = []
        for anchor in range(len(anchors)):
            loss = -logits[image, anchor].log_softmax(0)[classes[anchor]]
            if classes[anchor] > 0:
                difference = (offsets[image, anchor] - wanted[anchor]).abs()
                smooth = torch.where(difference < 1, difference**2 / 2, difference - 0.5)
                total = total + loss + smooth.sum()
                positives += 1
            else:
                losses.append(loss)
        here = int((classes > 0).sum())
        total = total + sum(sorted(losses, reverse=True)[: 3 * here])
    return total / max(positives, 1)


def test_the_loss_is_that_of_a_loop():
    for seed in range(5):
        offsets, logits, each, anchors = problem(seed)
        got = ssd_loss(offsets, logits, padded(each), anchors)
        torch.testing.assert_close(got, slow_loss(offsets, logits, each, anchors))


def test_a_batch_without_objects_has_loss_0_and_a_gradient():
    offsets, logits, each, anchors = problem(0, (0, 0))
    logits.requires_grad_()
    loss = ssd_loss(offsets, logits, padded(each), anchors)
    loss.backward()
    assert float(loss.detach()) == 0.0
    assert float(logits.grad.abs().sum()) == 0.0


def test_with_few_negatives_all_of_them_count():
    positive = torch.tensor([[True, True, True, False]])
    assert hard_negatives(torch.rand(1, 4), positive).tolist() == [[False, False, False, True]]


def test_label_smoothing_is_that_of_the_cross_entropy():
    offsets, logits, each, anchors = problem(1, (2,))
    classes, _ = match(each[0], anchors)
    smoothed = F.cross_entropy(logits[0], classes, reduction="none", label_smoothing=0.1)
    counted = (classes > 0) | hard_negatives(smoothed[None], (classes > 0)[None])[0]
    without = ssd_loss(offsets, logits, padded(each), anchors, weight=0.0, label_smoothing=0.1)
    torch.testing.assert_close(without, smoothed[counted].sum() / (classes > 0).sum())
