"""How the squares of the inputs of a module's weights are read from a call of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from steppe.core.layer import Layer, inputs_first
from steppe.score.input_squares.calls import Call, argument, mean_square
from steppe.score.input_squares.recurrent import RECURRENT, of_cell, of_layers

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

Reading = Callable[[nn.Module, Layer, Call, Any], Tensor]
"""(module, layer, arguments, what it returned) -> E[x^2], or another mean of the inputs, shaped to
broadcast over the weight."""


def squares_of(layer: Layer, module: nn.Module) -> Reading | None:
    """How the squares of a weight's inputs are read from a call of its module; None if they cannot.

    Example:
        >>> linear = nn.Linear(2, 3)
        >>> squares = squares_of(Layer("weight", (3, 2)), linear)
        >>> squares(linear, Layer("weight", (3, 2)), ((torch.tensor([[1.0, 2.0]]),), {}), None)
        tensor([[1., 4.]])
    """
    tensor = layer.name.rpartition(".")[2]
    if layer.stacked:
        return None
    if isinstance(module, nn.Linear) or inputs_first(module):
        return _linear
    if isinstance(module, nn.Bilinear):
        return _bilinear
    if isinstance(module, (*_CONVOLUTIONS, *_TRANSPOSED)):
        return _convolution
    if isinstance(module, nn.MultiheadAttention):
        return _attention
    if isinstance(module, nn.RNNCellBase):
        return of_cell
    if isinstance(module, nn.RNNBase) and RECURRENT.fullmatch(tensor):
        return of_layers
    return None


def _linear(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    args, kwargs = call
    mean = mean_square(args[0] if args else next(iter(kwargs.values())))
    return mean[:, None] if inputs_first(module) else mean[None]


def _bilinear(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    pair = [argument(call, i, f"input{i + 1}").detach().float() for i in range(2)]
    first, second = (x.reshape(-1, x.shape[-1]).square() for x in pair)
    # what an output weighs are the products of the two inputs
    squares: Tensor = first.T @ second / len(first)
    return squares[None]


def _convolution(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    x = argument(call, 0, "input").detach().float()
    batched = x if x.ndim == len(layer.shape) else x[None]
    mean = batched.square().mean(dim=[0, *range(2, batched.ndim)])
    kernel = [1] * (len(layer.shape) - 2)
    if isinstance(module, _TRANSPOSED):
        value: Tensor = mean.reshape(-1, 1, *kernel)
        return value
    assert isinstance(module, _CONVOLUTIONS)
    groups = module.groups
    per_group = mean.reshape(groups, -1)
    value = per_group.repeat_interleave(layer.rows // groups, 0)
    value = value.reshape(*value.shape, *kernel)
    return value


def _attention(module: nn.Module, layer: Layer, call: Call, output: Any) -> Tensor:
    assert isinstance(module, nn.MultiheadAttention)
    tensor = layer.name.rpartition(".")[2]
    places = {"q_proj_weight": 0, "k_proj_weight": 1, "v_proj_weight": 2}
    arguments = ("query", "key", "value")
    if tensor in places:
        return mean_square(argument(call, places[tensor], arguments[places[tensor]]))[None]
    if tensor == "in_proj_weight":
        means = [mean_square(argument(call, i, name)) for i, name in enumerate(arguments)]
        return torch.stack(means).repeat_interleave(module.embed_dim, 0)
    # the heads' outputs are seen by nobody but the last projection: with the identity in its place
    # the module returns them
    width, like = module.embed_dim, module.out_proj.weight
    instead = {"out_proj.weight": torch.eye(width, dtype=like.dtype, device=like.device)}
    if module.out_proj.bias is not None:
        instead["out_proj.bias"] = torch.zeros_like(module.out_proj.bias)
    args, kwargs = call
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices):
        heads, _ = functional_call(module, instead, args, dict(kwargs))
    return mean_square(heads)[None]
