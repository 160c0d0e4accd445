"""Recurrent layers, and the packed sequences that they read."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from steppe.removal.channel_labels import Labels
from steppe.removal.propagation.state import Arguments, Dims, LabelPropagation, rule


@rule("_pack_padded_sequence", "_pad_packed_sequence")
def packing(state: LabelPropagation, args: Arguments, out: Any) -> None:
    """Samples and times become one dimension, or two again; features stay the last."""
    *others, features = state.labels(args[0])
    for labels in others:
        state.fix(labels, "lies along the time of a sequence")
    state.assign(out[0], [*[None] * (out[0].ndim - 1), features])


def recurrent(
    state: LabelPropagation, module: Any, x: Tensor, given: list[Tensor], out: list[Tensor]
) -> bool:
    """An RNN, LSTM or GRU: a hidden unit goes with its gates, in all layers and directions.

    A unit without weights is zero at all times when it starts so.

    Args:
        state: the labels so far.
        module: the layer.
        x: its input; features last.
        given: the states that were given to it.
        out: outputs, last hidden states, last cell states.

    Returns:
        True: it is known.
    """
    directions = 2 if module.bidirectional else 1
    gates = {"LSTM": 4, "GRU": 3}.get(module.mode, 1)
    features = state.labels(x)[-1]
    for labels in state.labels(x)[:-1]:
        state.fix(labels, "lies along the time of a recurrent layer")
    if module.proj_size:
        for labels in (features, *(d for p in module.parameters() for d in state.labels(p))):
            state.fix(labels, "goes through a recurrent layer with a projection")
        return True
    unit: Labels | None = state.labels(module.weight_hh_l0)[1]
    both = None if unit is None else np.tile(unit, directions)
    for layer in range(module.num_layers):
        for suffix in ("", "_reverse")[:directions]:
            end = f"_l{layer}{suffix}"
            columns = state.labels(getattr(module, f"weight_ih{end}"))[1]
            state.contract(columns, features if layer == 0 else both)
            state.couple(unit, state.labels(getattr(module, f"weight_hh{end}"))[1])
            names = ("weight_ih", "weight_hh", *(("bias_ih", "bias_hh") if module.bias else ()))
            for name in names:
                rows = state.labels(getattr(module, name + end))[0]
                if rows is not None and unit is not None:
                    state.couple(np.tile(unit, gates), rows)
                else:
                    state.fix(rows, "is the only unit")
    for first in given:  # those of another layer go with it
        own = state.labels(first)[-1]
        if own is None:
            state.fix(unit, "meets a state whose size is fixed")
        else:
            state.couple(unit, own)
    for index, tensor in enumerate(out):
        dims: Dims = [None] * (tensor.ndim - 1)
        state.assign(tensor, [*dims, both if index == 0 else unit])
    return True
