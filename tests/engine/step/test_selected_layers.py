"""What a method's parts cannot prune is named, or refused where it was asked for."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import steppe
from steppe import SteppeError
from steppe.engine.step.selected_layers import selected_layers


class Mixed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(6, 8)
        self.lstm = nn.LSTM(8, 6, proj_size=4)
        self.up = nn.ConvTranspose1d(4, 6, 2)
        self.out = nn.Linear(6, 3)


LSTM = {f"lstm.weight_{part}_l0" for part in ("ih", "hh", "hr")}


def test_gates_are_no_channels_unless_they_are_asked_for() -> None:
    method = steppe.methods.gmp(sparsity=0.5, structure="channel")
    chosen, notes = selected_layers(Mixed(), method, [], [])
    assert set(chosen.weights) == {"up.weight"}
    assert {d.name for d in chosen.dense} == {*LSTM, "embed.weight"}
    assert "the output layer out.weight stays dense" in notes[0]
    chosen, _ = selected_layers(Mixed(), method, ["lstm"], [])
    assert set(chosen.weights) == LSTM
    with pytest.raises(SteppeError, match=r"only lstm\.\* \(3 of 3 layers\): its outputs live"):
        selected_layers(nn.ModuleDict({"lstm": Mixed().lstm}), method, [], [])


def test_the_output_layer_is_not_pruned_because_all_others_are_left_out() -> None:
    model = nn.Sequential(nn.LSTM(4, 6), nn.Linear(6, 3))
    method = steppe.methods.gmp(sparsity=0.5, structure="channel")
    with pytest.raises(SteppeError, match=r"only 1 \(1 of 1 layers\): the output layer"):
        selected_layers(model, method, [], [])
    assert len(selected_layers(nn.Linear(4, 3), method, [], [])[0].layers) == 1


def test_the_last_layer_of_a_decoder_may_be_a_transposed_convolution() -> None:
    model = nn.Sequential(nn.Conv1d(2, 8, 3), nn.ReLU(), nn.ConvTranspose1d(8, 2, 3))
    method = steppe.methods.gmp(sparsity=0.5, structure="channel")
    chosen, notes = selected_layers(model, method, [], [])
    assert set(chosen.weights) == {"0.weight"}
    assert "2.weight" in notes[0]


def test_what_a_score_cannot_see_is_left_out_or_refused() -> None:
    method = steppe.methods.gmp(sparsity=0.5).replace(score="wanda")
    chosen, _ = selected_layers(Mixed(), method, [], [])
    left = {d.name: d.why for d in chosen.dense}
    assert set(left) == {"embed.weight", "lstm.weight_hr_l0"}
    assert "wanda cannot see its activation square" in left["lstm.weight_hr_l0"]
    with pytest.raises(SteppeError, match=r"got embed .*exclude=\['embed'\]"):
        selected_layers(Mixed(), method, ["embed", "out"], [])
    everything, _ = selected_layers(Mixed(), method, ["*", "embed"], [], ["activation_square"])
    assert len(everything.layers) == 6


def test_a_shape_that_does_not_fit_is_refused_before_the_model_is_changed() -> None:
    model = Mixed()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    method = steppe.methods.spred(sparsity=0.5).replace(structure="block:4x4")
    with pytest.raises(SteppeError, match=r"lstm\.weight_hr_l0.*--exclude"):
        steppe.sparsify(model, optimizer, method, 3)
    assert all(
        type(m).__name__ in ("Mixed", "Embedding", "LSTM", "ConvTranspose1d", "Linear")
        for m in model.modules()
    )
    assert len(optimizer.param_groups[0]["params"]) == len(list(model.parameters()))
