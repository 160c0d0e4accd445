"""The squares of what flows into each matrix, beside the matrix product written out."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from steppe.core.layer import Layer, home_of
from steppe.core.prunable import prunable
from steppe.score.input_squares import squares_of


def gathered(model: nn.Module, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
    """Weight name -> E[x^2] of one call."""
    seen: dict[str, Tensor] = {}
    for layer in prunable(model)[0]:
        module = home_of(model, layer.name)
        squares = squares_of(layer, module)
        if squares is None:
            continue
        output = module(*args, **kwargs)
        seen[layer.name] = squares(module, layer, (args, kwargs), output)
    return seen


def close(value: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("groups", [1, 2])
def test_transposed_convolutions_store_inputs_first(groups: int) -> None:
    module = nn.ConvTranspose2d(4, 6, 3, groups=groups)
    x = torch.randn(5, 4, 7, 7) * torch.tensor([1.0, 2.0, 4.0, 8.0])[:, None, None]
    (value,) = gathered(module, x).values()
    close((value * torch.ones_like(module.weight))[:, 0, 0, 0], x.square().mean((0, 2, 3)))


def test_bilinear_weighs_products_of_inputs() -> None:
    module, pair = nn.Bilinear(3, 4, 5), (torch.randn(7, 3), torch.randn(7, 4))
    (value,) = gathered(module, *pair).values()
    products = pair[0][:, :, None] * pair[1][:, None, :]
    close(value[0], products.square().mean(0))


def states_of(module: nn.RNNBase, x: Tensor, initial: Tensor, layer: int, way: int) -> Tensor:
    """The states that each step of a GRU layer reads, from cells: ``[steps, batch, size]``."""
    ways = 2 if module.bidirectional else 1
    for k in range(layer + 1):
        outputs, read = [], []
        for d in range(ways):
            end = "_reverse" if d else ""
            cell = nn.GRUCell(x.shape[-1], module.hidden_size)
            for part in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"):
                setattr(cell, part, getattr(module, f"{part}_l{k}{end}"))
            state, before, after = initial[k * ways + d], [], []
            for step in x.flip(0) if d else x:
                before.append(state)
                state = cell(step, state)
                after.append(state)
            outputs.append(torch.stack(after[::-1] if d else after))
            read.append(torch.stack(before))
        if k == layer:
            return read[way]
        x = torch.cat(outputs, -1)
    raise AssertionError


@pytest.mark.parametrize("bidirectional", [False, True])
def test_recurrent_layers_read_the_states_of_the_step_before(bidirectional: bool) -> None:
    module = nn.GRU(3, 4, num_layers=3, bidirectional=bidirectional)
    x, ways = torch.randn(6, 5, 3), 2 if bidirectional else 1
    initial = torch.randn(3 * ways, 5, 4)
    seen = gathered(module, x, initial)
    close(seen["weight_ih_l0"][0], x.square().mean((0, 1)))
    for layer in range(3):
        for way in range(ways):
            name = f"weight_hh_l{layer}{'_reverse' if way else ''}"
            read = states_of(module, x, initial, layer, way)
            close(seen[name][0], read.square().mean((0, 1)))


def test_lengths_count_and_an_lstm_keeps_its_cells_apart() -> None:
    module = nn.LSTM(3, 4, num_layers=2, batch_first=True, proj_size=2)
    x, lengths = torch.randn(3, 5, 3), [5, 3, 2]
    packed = pack_padded_sequence(x, lengths, batch_first=True)
    seen = gathered(module, packed)
    sums = {n: torch.zeros_like(v) for n, v in seen.items()}
    for i, length in enumerate(lengths):
        for name, value in gathered(module, x[i : i + 1, :length]).items():
            sums[name] += value * length
    assert set(seen) == {"weight_ih_l0", "weight_hh_l0", "weight_ih_l1", "weight_hh_l1"}
    for name, value in seen.items():
        close(value, sums[name] / sum(lengths))


def test_dropout_between_layers_scales_what_the_next_one_reads_and_takes_no_draw() -> None:
    module = nn.RNN(3, 64, num_layers=2, dropout=0.5)
    x = torch.randn(20, 30, 3)
    layer = Layer("weight_ih_l1", (64, 64))
    squares = squares_of(layer, module)
    assert squares is not None
    state = torch.get_rng_state()
    dropped = squares(module, layer, ((x,), {}), None)
    assert torch.equal(state, torch.get_rng_state())
    plain = squares(module.eval(), layer, ((x,), {}), None)
    assert 1.9 < float(dropped.sum() / plain.sum()) < 2.1


@pytest.mark.parametrize("together", [True, False])
def test_attention_reads_queries_keys_values_and_heads(together: bool) -> None:
    dims = {} if together else {"kdim": 4, "vdim": 6}
    module = nn.MultiheadAttention(8, 2, batch_first=True, dropout=0.2, **dims).eval()
    q = torch.randn(3, 5, 8)
    k, v = (q * 2, q * 3) if together else (torch.randn(3, 7, 4), torch.randn(3, 7, 6))
    seen = gathered(module, q, k, value=v)
    means = [t.square().mean((0, 1)) for t in (q, k, v)]
    if together:
        rows = seen["in_proj_weight"]
        for i in range(3):
            close(rows[8 * i : 8 * i + 8], means[i].expand(8, 8))
    else:
        for name, mean in zip("qkv", means, strict=True):
            close(seen[f"{name}_proj_weight"][0], mean)
    out, _ = module(q, k, v)
    with torch.no_grad():
        solved = (out - module.out_proj.bias) @ torch.linalg.inv(module.out_proj.weight).T
    close(seen["out_proj.weight"][0], solved.square().mean((0, 1)))


def test_seeing_the_heads_takes_no_draw_and_leaves_no_gradient() -> None:
    module = nn.MultiheadAttention(8, 2, dropout=0.5)
    layer, x = Layer("out_proj.weight", (8, 8)), torch.randn(5, 3, 8)
    squares = squares_of(layer, module)
    assert squares is not None
    state = torch.get_rng_state()
    value = squares(module, layer, ((x, x, x), {}), None)
    assert torch.equal(state, torch.get_rng_state())
    assert not value.requires_grad
    assert module.out_proj.weight.grad is None


def test_cells_read_the_state_that_they_are_given() -> None:
    cell, x = nn.LSTMCell(3, 4), torch.randn(5, 3)
    state = (torch.randn(5, 4), torch.randn(5, 4))
    seen = gathered(cell, x, state)
    close(seen["weight_ih"][0], x.square().mean(0))
    close(seen["weight_hh"][0], state[0].square().mean(0))
    assert not gathered(cell, x)["weight_hh"].any()


def test_what_nobody_sees_is_not_made_up() -> None:
    assert squares_of(Layer("weight_hr_l0", (2, 4)), nn.LSTM(3, 4, proj_size=2)) is None
    assert squares_of(Layer("weight", (9, 4)), nn.Embedding(9, 4)) is None
    assert squares_of(Layer("weight", (2, 4, 3), stacked=True), nn.Linear(3, 4)) is None
