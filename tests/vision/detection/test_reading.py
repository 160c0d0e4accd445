"""What all readings have in common: of what is there, what they learn."""

import pytest
import torch

from steppe import SteppeError
from steppe.vision.detection.anchors import Anchors
from steppe.vision.detection.detections import Detections
from steppe.vision.detection.metrics import mean_precisions
from steppe.vision.detection.reading import SSDReading
from steppe.vision.detection.sets.focal import FocalReading
from steppe.vision.detection.sets.nothing import SetReading
from steppe.vision.detection.targets import CROWD, DIFFICULT, padded

ANCHORS = Anchors(((4, 4), (1, 1)), (0.3, 0.6, 1.0), ((2.0,), (2.0,)))
READINGS = {
    "ssd": (SSDReading(ANCHORS), len(ANCHORS), 4),
    "nothing": (SetReading(), 6, 4),
    "focal": (FocalReading(6), 12, 3),
}


@pytest.mark.parametrize("name", READINGS)
def test_difficult_objects_are_learned_and_crowds_are_not(name):
    reading, boxes, classes = READINGS[name]
    draw = torch.Generator().manual_seed(0)
    outputs = torch.rand(2, boxes, 4 + classes, generator=draw)
    single = torch.tensor([[0.1, 0.1, 0.4, 0.5, 1, 0], [0.5, 0.2, 0.9, 0.8, 0, DIFFICULT]])
    crowd = torch.tensor([[0.3, 0.3, 1.0, 0.9, 2, CROWD]])

    def said(*each):
        targets = padded(each)
        return torch.stack([reading.loss(outputs, targets), reading.accuracy(outputs, targets)])

    with_crowds = said(torch.cat([crowd, single]), crowd)
    assert torch.equal(with_crowds, said(single, torch.zeros(0, 6)))
    assert not torch.equal(with_crowds, said(single[:1], torch.zeros(0, 6)))


@pytest.mark.parametrize("name", READINGS)
@pytest.mark.parametrize("column", [0, 4])
def test_outputs_that_are_no_numbers_are_not_taken_for_nothing_found(name, column):
    reading, boxes, classes = READINGS[name]
    outputs = torch.rand(2, boxes, 4 + classes)
    assert len(reading.detections(outputs)) == 2
    outputs[1, -1, column] = float("nan")
    with pytest.raises(SteppeError, match=r"gives numbers; got NaN or infinity in [13] of"):
        reading.detections(outputs)


def test_neither_are_those_of_a_reading_of_somebody_else():
    own = Detections(torch.rand(2, 4), torch.tensor([0.5, float("nan")]), torch.zeros(2).long())
    with pytest.raises(SteppeError, match="a detector gives numbers"):
        mean_precisions([own], [torch.tensor([[0.0, 0.0, 0.5, 0.5, 0, 0]])], ("a",))


def test_boxes_that_are_larger_than_any_number_are_cut_at_the_image():
    reading, boxes, classes = READINGS["ssd"]
    outputs = torch.zeros(1, boxes, 4 + classes)
    outputs[0, 0, 2:4] = 1e4
    found = reading.detections(outputs)[0]
    assert found.boxes.isfinite().all()
