"""Anchors beside a loop over cells and shapes, and what cannot be anchors."""

import math

import pytest
import torch

from steppe import SteppeError
from steppe.vision.detection.anchors import Anchors


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


def test_anchors_are_clipped_to_the_image():
    assert float(Anchors(((1, 1),), (0.9, 1.2), ((2.0,),)).boxes().max()) == 1.0


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
