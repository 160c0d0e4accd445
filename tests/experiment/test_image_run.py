"""A run that is laid beside another."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.experiment.detection.recipe import parse as parse_detector
from steppe.experiment.image_run import ImageRun
from steppe.experiment.recipe import parse
from steppe.vision.data.base import ImageData, Split

RECIPE = parse({"method": "dense"})


def run(path: Path, channels: int, labels: list[int]) -> ImageRun:
    split = Split(torch.zeros(len(labels), channels, 8, 8), torch.tensor(labels))
    data = ImageData("made", split, None, split, 2, (0.5,) * channels, (0.5,) * channels)
    return ImageRun(RECIPE, data, nn.Identity(), "cpu", path)


def test_a_network_that_is_given_the_runs_pixels_takes_their_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``--beside`` of corruptions and attacks; answers of each on its own images need no shape."""
    own, other = run(tmp_path / "own", 1, [0, 1]), run(tmp_path / "other", 3, [0, 1])
    monkeypatch.setattr(ImageRun, "read", lambda *_: other)
    assert own.beside(str(other.path), "test") is other
    with pytest.raises(SteppeError, match=r"\[1, 8, 8\] here, \[3, 8, 8\] in .*same data.size"):
        own.beside(str(other.path), "test", pixels=True)
    same = replace(other, data=own.data)
    monkeypatch.setattr(ImageRun, "read", lambda *_: same)
    assert own.beside(str(other.path), "test", pixels=True) is same
    with pytest.raises(SteppeError, match="the run itself"):
        own.beside(str(own.path), "test")
    unlike = run(tmp_path / "unlike", 1, [1, 1])
    monkeypatch.setattr(ImageRun, "read", lambda *_: unlike)
    with pytest.raises(SteppeError, match="compared on the same images"):
        own.beside(str(unlike.path), "test")


def test_a_detector_is_not_laid_beside_a_classifier(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own, other = run(tmp_path / "own", 3, [0, 1]), run(tmp_path / "other", 3, [0, 1])
    detector = replace(other, recipe=parse_detector({"method": "dense", "data": {"name": "voc:x"}}))
    monkeypatch.setattr(ImageRun, "read", lambda *_: detector)
    with pytest.raises(
        SteppeError, match=r"other, a run of task detection\. Way out: .*task image"
    ):
        own.beside(str(other.path), "test")


def test_other_images_with_the_same_labels_are_no_images_to_compare_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As of two folders with as many images in each class."""
    own, other = (run(tmp_path / name, 1, [0] * 20 + [1] * 20) for name in ("own", "other"))
    monkeypatch.setattr(ImageRun, "read", lambda *_: other)
    assert own.beside(str(other.path), "test") is other
    other.data.test.images[16:] = 0.5
    with pytest.raises(SteppeError, match="compared on the same images"):
        own.beside(str(other.path), "test")
    framed = parse({"method": "dense", "data": {"size": 8}})
    otherwise = replace(other, recipe=framed)
    monkeypatch.setattr(ImageRun, "read", lambda *_: otherwise)
    assert own.beside(str(other.path), "test") is otherwise, "their pixels say nothing"
