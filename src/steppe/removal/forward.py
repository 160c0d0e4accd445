"""Run a model once on example inputs, and leave it as it was."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError


def call(model: nn.Module, example_inputs: Any) -> Any:
    """Run a model on a tensor, a tuple of arguments or a dict of keyword arguments.

    Raises:
        SteppeError: the model refuses them.
    """
    if isinstance(example_inputs, Mapping):
        run = partial(model, **example_inputs)
    elif isinstance(example_inputs, list | tuple):
        run = partial(model, *example_inputs)
    else:
        run = partial(model, example_inputs)
    try:
        return run()
    except (RuntimeError, ValueError, TypeError, IndexError, KeyError, AttributeError) as error:
        if isinstance(error, SteppeError):
            raise
        given = ", ".join(str(tuple(t.shape)) for t in tensors_of(example_inputs)) or "nothing"
        raise SteppeError(
            "a model must accept its example inputs",
            got=f"{given}: {type(error).__name__}: {str(error).strip().splitlines()[0][:200]}",
            way_out="give one batch as the model takes it: a tensor, a tuple of arguments or a "
            "dict of keyword arguments, e.g. torch.zeros(1, 3, 32, 32)",
        ) from error


def to_device(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs of a model on a device; tensors of real numbers also get the dtype."""
    if isinstance(tree, Tensor):
        return tree.to(device, dtype) if tree.is_floating_point() else tree.to(device)
    if isinstance(tree, Mapping):
        return {key: to_device(value, device, dtype) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(to_device(value, device, dtype) for value in tree)
    return tree


def tensors_of(tree: Any) -> list[Tensor]:
    """All tensors of nested lists, tuples, dicts and transformers' outputs."""
    if isinstance(tree, Tensor):
        return [tree]
    if isinstance(tree, Mapping):
        tree = list(tree.values())
    if isinstance(tree, list | tuple):
        return [t for branch in tree for t in tensors_of(branch)]
    if hasattr(tree, "__dict__") and not isinstance(tree, type | nn.Module):
        return [t for t in vars(tree).values() if isinstance(t, Tensor)]
    return []


@contextmanager
def untouched(model: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; modes, buffers and random state are restored."""
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {t.device for t in model.parameters() if t.device.type == "cuda"}
    try:
        with torch.random.fork_rng(devices=list(devices)), torch.no_grad():
            for module, _ in modes:
                module.training = False
            yield
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
    finally:
        for module, training in modes:
            module.training = training
