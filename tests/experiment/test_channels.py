"""What a run says of channels that it cannot prune."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from steppe.core.cost import Units
from steppe.core.group import Group
from steppe.experiment import channels
from steppe.experiment.channels import Channels, gains
from steppe.removal.channel_groups import channel_groups
from steppe.removal.remove import remove


def test_weights_that_keep_all_channels_are_noted_but_for_the_last_layer() -> None:
    last = {"head.weight": "reaches the model's output"}
    assert Channels([], Units([]), last).notes() == []
    (note,) = Channels([], Units([]), last | {"a.weight": "goes through sort in mix"}).notes()
    assert note.startswith("1 of the weights keep all")
    assert "a.weight, which goes through sort in mix" in note


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_many_images_are_timed_in_the_memory_format_of_the_network(layout, monkeypatch) -> None:
    network = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 4, 3))
    network = network.to(memory_format=layout).eval()
    example = torch.randn(2, 3, 8, 8).to(memory_format=layout)
    groups: list[Group] = channel_groups(network, example)
    with torch.no_grad():
        network[0].weight[:2], network[0].bias[:2] = 0.0, 0.0
    removed = remove(network, example, groups=groups)
    seen = []
    compared = channels.compare

    def watched(dense, own, images, reason):
        seen.append((len(images), images.is_contiguous(memory_format=layout)))
        return compared(dense, own, images, reason)

    monkeypatch.setattr(channels, "compare", watched)
    gains(network, removed, example, Channels(groups, Units(groups), {}))
    assert seen == [(1, True), (64, True)]
