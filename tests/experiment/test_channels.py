"""What a run says of channels that it cannot prune."""

from __future__ import annotations

from steppe.core.cost import Units
from steppe.experiment.channels import Channels


def test_weights_that_keep_all_channels_are_noted_but_for_the_last_layer() -> None:
    last = {"head.weight": "reaches the model's output"}
    assert Channels([], Units([]), last).notes() == []
    (note,) = Channels([], Units([]), last | {"a.weight": "goes through sort in mix"}).notes()
    assert note.startswith("1 of the weights keep all")
    assert "a.weight, which goes through sort in mix" in note
