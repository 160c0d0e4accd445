from types import SimpleNamespace

import pytest
import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.vision.models import logits


class Wrapped(nn.Module):
    def __init__(self, wrap):
        super().__init__()
        self.wrap = wrap

    def forward(self, x):
        return self.wrap(x)


@pytest.mark.parametrize("wrap", [lambda x: x, lambda x: SimpleNamespace(logits=x)])
def test_scores_are_found_bare_or_as_an_attribute(wrap):
    x = torch.randn(2, 3)
    assert logits(Wrapped(wrap), x) is x


def test_anything_else_is_an_error():
    with pytest.raises(SteppeError, match=r"a tensor or an object with \.logits; got dict"):
        logits(Wrapped(lambda x: {"scores": x}), torch.zeros(1))
