"""What a block starts from, by name or with options."""

import pytest

from steppe import SteppeError
from steppe.core.protocols import Objective
from steppe.objective.block_reconstruction import BlockReconstruction


def test_a_start_with_options_is_written_down_and_read_back():
    named = {"name": "block_reconstruction", "start": {"name": "obs_update", "damping": 0.1}}
    start = Objective.make(named)
    assert start.starts_from.damping == 0.1
    assert Objective.make(start.to_dict()) == start
    assert start.to_dict()["start"]["damping"] == 0.1
    assert BlockReconstruction(start="obs_update").to_dict()["start"] == "obs_update"
    assert BlockReconstruction().starts_from is None


@pytest.mark.parametrize("start", ["admm", {"name": "admm"}])
def test_what_trains_is_no_start(start):
    with pytest.raises(SteppeError, match="a start solves one layer at a time"):
        Objective.make({"name": "block_reconstruction", "start": start})


@pytest.mark.parametrize("start", [3, {"damping": 0.1}])
def test_what_is_no_solver_at_all(start):
    with pytest.raises(SteppeError):
        Objective.make({"name": "block_reconstruction", "start": start})
