"""Networks of a registry: what cannot be built is one line, of classifiers and of detectors."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry
from steppe.vision.detection import models as detectors
from steppe.vision.models import build
from steppe.vision.models.registry import from_registry


def _refusing(num_classes: int, in_shape: tuple[int, int, int], width: int = 1) -> nn.Module:
    if width == 7:
        raise SteppeError("width must be even", got=width)
    return nn.Linear(int(12 / width), num_classes)


def _network(**options: Any) -> nn.Module:
    registry: Registry[Any] = Registry("network", "steppe.vision.models")
    registry.register("refusing")(_refusing)
    return from_registry(registry, "refusing", 3, (3, 8, 8), options)


def test_what_a_builder_says_itself_stays_as_it_is() -> None:
    assert isinstance(_network(width=2), nn.Linear)
    with pytest.raises(SteppeError, match=r"^width must be even; got 7$"):
        _network(width=7)
    with pytest.raises(SteppeError, match=r"network refusing must .*can be built with.*'width': 0"):
        _network(width=0)


@pytest.mark.parametrize(
    ("kind", "made", "name"),
    [("model", build, "resnet20"), ("detector", detectors.build, "ssd_small")],
)
def test_classifiers_and_detectors_say_the_same(kind: str, made: Any, name: str) -> None:
    with pytest.raises(SteppeError, match=f"a {kind} of steppe starts at random; got {name} with"):
        made(name, 3, (3, 128, 128), pretrained=True)
    with pytest.raises(SteppeError, match=rf"{kind} {name} must be given options.*'nothing'"):
        made(name, 3, (3, 128, 128), nothing=1)
