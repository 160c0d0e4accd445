"""What the weights of recurrent layers and cells read."""

from __future__ import annotations

import re
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.utils.rnn import PackedSequence

from steppe.core.layer import Layer
from steppe.score.input_squares.calls import Call, argument, mean_square

RECURRENT = re.compile(r"weight_(ih|hh)_l(\d+)(_reverse)?")
"""The weights whose inputs are seen; what an LSTM projects is not."""


def of_cell(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    """A cell reads its input and the state that it is given."""
    x, state = argument(call, 0, "input"), argument(call, 1, "hx")
    if layer.name.endswith("weight_ih"):
        return mean_square(x)[None]
    if state is None:
        return torch.zeros(1, layer.shape[1], device=x.device)
    return mean_square(state[0] if isinstance(state, tuple) else state)[None]


def of_layers(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    """Recurrent layers read the layer below, and their own states of the step before."""
    assert isinstance(module, nn.RNNBase)
    matched = RECURRENT.fullmatch(layer.name.rpartition(".")[2])
    assert matched is not None
    kind, depth, way = matched[1], int(matched[2]), int(matched[3] is not None)
    x, initial = argument(call, 0, "input"), argument(call, 1, "hx")
    directions = 2 if module.bidirectional else 1
    here = slice(depth * directions, (depth + 1) * directions)
    with torch.no_grad():
        for k in range(depth):
            x = _dropped(_one_layer(module, k, x, initial)[0], module)
        if kind == "ih":
            return mean_square(x)[None]
        if depth == module.num_layers - 1:  # what it returned are this layer's states
            states, last = output[0], _hidden(output[1])[here]
        else:
            states, last = _one_layer(module, depth, x, initial)
        size = layer.shape[1]
        every = states.data if isinstance(states, PackedSequence) else states
        every = every.float().reshape(-1, directions, size)[:, way].square()
        # each step reads the state before it: every one but the last, and the first of all
        total = every.sum(0) - last[way].float().reshape(-1, size).square().sum(0)
        if initial is not None:
            first = _hidden(initial)[here][way].float()
            total += first.reshape(-1, size).square().sum(0)
    return (total / len(every)).clamp_min(0.0)[None]


def _hidden(state: Any) -> Tensor:
    """Of a state, what the next step multiplies, without an LSTM's cells."""
    hidden = state[0] if isinstance(state, tuple) else state
    assert isinstance(hidden, Tensor)
    return hidden


def _one_layer(module: nn.RNNBase, depth: int, x: Any, initial: Any) -> tuple[Any, Tensor]:
    """The states of one of its layers for that layer's inputs, and the last of them."""
    directions = ("", "_reverse") if module.bidirectional else ("",)
    parts = ("weight_ih", "weight_hh", "weight_hr", "bias_ih", "bias_hh")
    weights = {
        f"{part}_l0{way}": getattr(module, f"{part}_l{depth}{way}").detach()
        for part in parts
        for way in directions
        if hasattr(module, f"{part}_l{depth}{way}")
    }
    options: dict[str, Any] = {"bias": module.bias, "batch_first": module.batch_first}
    options |= {"bidirectional": module.bidirectional, "device": "meta"}
    width = x.data.shape[-1] if isinstance(x, PackedSequence) else x.shape[-1]
    single: nn.RNNBase
    if isinstance(module, nn.LSTM):
        single = nn.LSTM(width, module.hidden_size, proj_size=module.proj_size, **options)
    elif isinstance(module, nn.GRU):
        single = nn.GRU(width, module.hidden_size, **options)
    else:
        options["nonlinearity"] = module.nonlinearity
        single = nn.RNN(width, module.hidden_size, **options)
    here = slice(depth * len(directions), (depth + 1) * len(directions))
    if initial is not None:
        own = isinstance(initial, tuple)
        initial = tuple(s[here] for s in initial) if own else initial[here]
    states, last = functional_call(single, weights, (x, initial))
    return states, _hidden(last)


def _dropped(states: Any, module: nn.RNNBase) -> Any:
    """A layer's states as the next one may see them; the draws are its own, none is taken."""
    if not (module.training and module.dropout):
        return states
    values = states.data if isinstance(states, PackedSequence) else states
    draws = torch.Generator(values.device).manual_seed(0)
    keep = torch.empty_like(values).bernoulli_(1.0 - module.dropout, generator=draws)
    values = values * keep / (1.0 - module.dropout)
    return states._replace(data=values) if isinstance(states, PackedSequence) else values
