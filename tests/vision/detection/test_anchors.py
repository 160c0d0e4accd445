"""Anchors beside a loop over cells and shapes, and what cannot be anchors."""

import math

import pytest
import torch

from steppe import SteppeError
from steppe.vision.detection.anchors import Anchors
from steppe.vision.detection.boxes import cornered


def test_anchors_are_those_of_the_paper_in_the_order_of_the_outputs():
    maps, scales, ratios = ((2, 3), (1, 1)), (0.2, 0.5, 0.7), ((2.0,), (2.0, 3.0))
    wanted = []
    for k, (height, width) in enumerate(maps):
        for row in range(height):
            for column in range(width):
                centre = [(column + 0.5) / width, (row + 0.5) / height]
                between = math.sqrt(scales[k] * scales[k + 1])
                shapes = [(scales[k], scales[k]), (between, between)]
                for ratio in ratios[k]:
                    wide, narrow = scales[k] * math.sqrt(ratio), scales[k] / math.sqrt(ratio)
                    shapes += [(wide, narrow), (narrow, wide)]
                wanted += [[*centre, *shape] for shape in shapes]
    anchors = Anchors(maps, scales, ratios)
    assert len(anchors) == len(wanted) == 6 * 4 + 6
    torch.testing.assert_close(anchors.boxes(), torch.tensor(wanted))


def test_no_side_is_longer_than_the_images_and_boxes_near_an_edge_reach_beyond_it():
    boxes = Anchors(((2, 2),), (0.9, 1.2), ((2.0,),)).boxes()
    narrow = 0.9 / math.sqrt(2)
    wanted = torch.tensor([[0.9, 0.9], [1.0, 1.0], [1.0, narrow], [narrow, 1.0]])
    torch.testing.assert_close(boxes[:4, 2:], wanted)
    assert float(cornered(boxes).min()) == pytest.approx(0.25 - 0.5)


def test_anchors_of_lists_are_those_of_tuples():
    of_tuples = Anchors(((2, 2), (1, 1)), (0.2, 0.5, 1), ((2,), (2, 3)))
    of_lists = Anchors([[2, 2], [1, 1]], [0.2, 0.5, 1], [[2], [2, 3]])
    assert of_lists == of_tuples
    assert hash(of_lists) == hash(of_tuples)
    assert torch.equal(of_lists.boxes(), of_tuples.boxes())


@pytest.mark.parametrize(
    ("scales", "ratios", "said"),
    [
        ((0.2,), ((2.0,),), "2 scales"),
        ((0.2, -0.1), ((2.0,),), "above 0"),
        ((0.2, 0.4), ((0.5,),), "ratios above 1"),
    ],
)
def test_what_is_no_anchor_is_refused(scales, ratios, said):
    with pytest.raises(SteppeError, match=said):
        Anchors(((2, 2),), scales, ratios)
