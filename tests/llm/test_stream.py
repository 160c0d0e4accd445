"""Blocks called one after the other with recorded arguments, and when that is no walk at all."""

from __future__ import annotations

import pytest
import torch

from steppe import SteppeError
from steppe.llm.stream import check_same, take_hidden


def test_the_hidden_states_are_the_first_argument_or_a_named_one() -> None:
    x, mask = torch.ones(1), torch.zeros(1)
    assert take_hidden((x, mask), {"a": 1}) == (x, (mask,), {"a": 1})
    given = {"hidden_states": x, "mask": mask}
    assert take_hidden((), given) == (x, (), {"mask": mask})
    for none in (((), {}), (([x], mask), {})):
        with pytest.raises(SteppeError, match="no tensor"):
            take_hidden(*none)
    assert "hidden_states" in given, "the caller's own dict stays"


def test_arguments_that_depend_on_the_text() -> None:
    held = ((None, torch.ones(2)), {"pair": (torch.zeros(1), torch.ones(1)), "flag": True})
    check_same(held, held)
    for other in (
        ((None, torch.zeros(2)), held[1]),
        ((None, torch.ones(3)), held[1]),
        ((None, None), held[1]),
        (held[0], held[1] | {"pair": (torch.zeros(1), torch.zeros(1))}),
        (held[0], held[1] | {"pair": None}),
    ):
        with pytest.raises(SteppeError, match="must not depend on the text"):
            check_same(held, other)
