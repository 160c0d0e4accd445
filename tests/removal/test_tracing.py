"""What is seen of a model: both of its modes, and all that leaves it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import nn

from steppe.removal.channel_groups import coupled_channels
from steppe.removal.remove import remove

IMAGE = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Base(nn.Module):
    """a -> relu -> b -> relu -> head."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 8, 3, padding=1), nn.Conv2d(8, 6, 3, padding=1)
        self.head, self.side = nn.Conv2d(6, 4, 1), nn.Conv2d(8, 5, 1)

    def forward(self, x):
        x = torch.relu(self.a(x))
        return self.end(x, self.head(torch.relu(self.b(x))))


class HeadInTraining(Base):
    """The side runs in training mode alone."""

    def end(self, x, y):
        return (y, self.side(x)) if self.training else y


class HeadInEvaluation(Base):
    def end(self, x, y):
        return y if self.training else (y, self.side(x))


def halved(networks, model, groups):
    networks.zero(model, groups, networks.draw(groups))
    return remove(model, IMAGE, groups=groups)


@pytest.mark.parametrize("kind", [HeadInTraining, HeadInEvaluation])
def test_both_modes_are_followed(networks, kind):
    model = kind()
    groups = {g.name: g for g in coupled_channels(model, IMAGE).groups}
    assert set(groups) == {"a.weight", "b.weight"}
    assert "side.weight" in {s.name for s in groups["a.weight"].slices if s.role == "input"}
    done = halved(networks, model, list(groups.values()))
    assert (done.report["unchecked"], done.model.side.in_channels) == ("", 4)
    for mode in (True, False):
        done.model.train(mode)(IMAGE)


class NeverRuns(Base):
    """A branch that these inputs do not take."""

    def __init__(self):
        super().__init__()
        self.other, self.large = nn.Conv2d(8, 5, 1), False

    def end(self, x, y):
        return (self.other if self.large else self.side)(x), y


def test_what_a_layer_that_never_runs_may_read_stays():
    coupled = coupled_channels(NeverRuns(), IMAGE)
    assert [g.name for g in coupled.groups] == ["b.weight"]
    assert "never runs" in coupled.left_out["other.weight"]
    assert "other.weight, which never runs" in coupled.left_out["a.weight"]


class NeedsTargets(Base):
    """Its training mode refuses the inputs."""

    def end(self, x, y):
        assert not self.training, "in training mode targets are needed"
        return y


def test_a_training_mode_that_refuses_the_inputs_is_named(networks):
    model = NeedsTargets()
    coupled = coupled_channels(model, IMAGE)
    assert [g.name for g in coupled.groups] == ["b.weight"]
    assert "targets are needed" in coupled.left_out["a.weight"]
    assert "targets are needed" in halved(networks, model, coupled.groups).report["unchecked"]


class NumpyInTraining(Base):
    """Its chance in training mode is numpy's."""

    def end(self, x, y):
        return y * float(np.random.rand()) if self.training else y


class AnotherClock(Base):
    """Its outputs in training mode are never the same twice."""

    def end(self, x, y):
        return y * next(CLOCK) if self.training else y


CLOCK = itertools.count(1)


@pytest.mark.parametrize(("kind", "unchecked"), [(NumpyInTraining, ""), (AnotherClock, "differ")])
def test_chance_of_other_kinds(networks, kind, unchecked):
    state = np.random.get_state()[1].copy()
    model = kind()
    coupled = coupled_channels(model, IMAGE)
    assert "b.weight" in [g.name for g in coupled.groups]
    assert unchecked in halved(networks, model, coupled.groups).report["unchecked"]
    assert (np.random.get_state()[1] == state).all()


@dataclass
class Output:
    logits: torch.Tensor
    features: list


class Hidden(Base):
    """Feature maps leave it in a list of an object."""

    def end(self, x, y):
        return Output(y, [{"features": x}])


class Kept(Base):
    """Feature maps stay behind as an attribute, for whoever reads them."""

    def end(self, x, y):
        self.features = [x]
        return y


@pytest.mark.parametrize(("kind", "why"), [(Hidden, "output"), (Kept, "kept as features")])
def test_what_leaves_the_network_keeps_its_channels(kind, why):
    coupled = coupled_channels(kind(), IMAGE)
    assert [g.name for g in coupled.groups] == ["b.weight"]
    assert why in coupled.left_out["a.weight"]


def test_the_check_sees_what_leaves_in_objects(networks):
    model = Hidden()
    groups = coupled_channels(HeadInTraining(), IMAGE).groups
    with pytest.raises(
        AssertionError, match=r"other shapes \(\(2, 8, 8, 8\) became \(2, 4, 8, 8\)\)"
    ):
        halved(networks, model, groups)


def test_a_pass_in_training_mode_leaves_no_trace():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8), nn.Dropout(), nn.ReLU(), nn.Conv2d(8, 2, 1)
    )
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    coupled_channels(model, IMAGE)
    assert torch.equal(torch.get_rng_state(), state)
    assert [m.training for m in model] == [True, True, False, True, True]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_compiled_parts_are_followed(networks):
    model = nn.Sequential(
        nn.Conv2d(3, 8, 1), torch.compile(nn.Conv2d(8, 6, 1)), nn.ReLU(), nn.Conv2d(6, 2, 1)
    )
    groups = coupled_channels(model, IMAGE).groups
    assert [g.name for g in groups] == ["0.weight", "1._orig_mod.weight"]
    assert halved(networks, model, groups).report["error"] <= 1e-5
