"""What the record of a whole training says beside its figures."""

from types import SimpleNamespace
from typing import Any

import pytest

import steppe
from steppe.experiment.causal_lm.record import projection_notes


def outcome(before: float | None, after: float | None, distance: float = 0.6) -> Any:
    measured = [{} if x is None else {"perplexity": x, "loss": 1.0} for x in (before, after)]
    finished = SimpleNamespace(distance=distance)
    return SimpleNamespace(before=measured[0], after=measured[1], finished=finished)


def test_a_last_projection_that_cost_perplexity_is_told_with_a_way_out():
    """ELSA at a tenth of its length: its penalty had hardly begun to pull."""
    elsa = steppe.methods.elsa(sparsity=0.9)
    (said,) = projection_notes(outcome(19.36, 4172.92), elsa)
    assert "from 19.36 to 4172.92 and moved the weights by 60.0%" in said
    assert "penalty auto" in said
    (said,) = projection_notes(outcome(19.36, 4172.92), steppe.methods.gmp(sparsity=0.9))
    assert "penalty" not in said


@pytest.mark.parametrize("given", [(20.0, 20.3), (None, None), (20.0, None), (20.0, 25.0, 0.0)])
def test_nothing_is_said_where_it_cost_nothing_or_is_not_known(given):
    assert projection_notes(outcome(*given), steppe.methods.elsa(sparsity=0.9)) == []
