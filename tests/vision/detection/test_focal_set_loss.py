"""The loss of RT-DETR beside that of transformers."""

import pytest
import torch

from steppe.vision.detection.boxes import centred
from steppe.vision.detection.focal_set_loss import focal_assigned, focal_set_loss
from steppe.vision.detection.targets import padded

QUERIES, CLASSES = 7, 3


def problem(seed, counts):
    draw = torch.Generator().manual_seed(seed)
    boxes = torch.rand(len(counts), QUERIES, 4, generator=draw) / 2 + 0.2
    logits = torch.randn(len(counts), QUERIES, CLASSES, generator=draw)
    each = []
    for count in counts:
        start = torch.rand(count, 2, generator=draw) / 2
        ends = start + 0.1 + torch.rand(count, 2, generator=draw) / 3
        labels = torch.randint(0, CLASSES, (count, 1), generator=draw).float()
        each.append(torch.cat([start, ends, labels, torch.zeros(count, 1)], 1))
    return boxes, logits, each


def theirs(boxes, logits, each):
    """Matched rows and the loss of transformers."""
    transformers = pytest.importorskip("transformers")
    from transformers.loss.loss_rt_detr import RTDetrLoss

    criterion = RTDetrLoss(transformers.RTDetrConfig(num_labels=CLASSES))
    wanted = [{"class_labels": own[:, 4].long(), "boxes": centred(own[:, :4])} for own in each]
    outputs = {"logits": logits, "pred_boxes": boxes}
    return criterion.matcher(outputs, wanted), sum(criterion(outputs, wanted).values())


@pytest.mark.parametrize("counts", [(2, 3), (0, 4), (1,), (0, 0)])
def test_assignment_loss_and_gradient_are_those_of_transformers(counts):
    for seed in range(4):
        boxes, logits, each = problem(seed, counts)
        boxes.requires_grad_()
        logits.requires_grad_()
        pairs, wanted = theirs(boxes, logits, each)
        for own, scores, found, (rows, columns) in zip(boxes, logits, each, pairs, strict=True):
            got = focal_assigned(own, scores, found)
            assert torch.equal(got[0], rows)
            assert torch.equal(got[1], columns)
        loss = focal_set_loss(boxes, logits, padded(each))
        torch.testing.assert_close(loss, wanted)
        gradients = torch.autograd.grad(loss, (boxes, logits))
        torch.testing.assert_close(gradients, torch.autograd.grad(wanted, (boxes, logits)))


def test_a_network_that_diverged_has_a_loss_that_says_so():
    boxes, logits, each = problem(0, (2,))
    assert focal_set_loss(boxes * torch.nan, logits, padded(each)).isnan()
