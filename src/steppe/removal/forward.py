"""Run a model on example inputs in either mode, and leave it as it was."""

from __future__ import annotations

import random
import sys
import warnings
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import is_dataclass
from functools import partial
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from steppe.core.errors import SteppeError
from steppe.removal.containers import map_tensors, tensors_of

_KEPT = (Tensor, list, tuple, dict, SimpleNamespace)


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
    except Exception as error:  # whatever a model's code raises
        if isinstance(error, SteppeError):
            raise
        given = ", ".join(str(tuple(t.shape)) for t in tensors_of(example_inputs)) or "nothing"
        raise SteppeError(
            "a model must accept its example inputs",
            got=f"{given}: {said(error)}",
            way_out="give one batch as the model takes it: a tensor, a tuple of arguments or a "
            "dict of keyword arguments, e.g. torch.zeros(1, 3, 32, 32)",
        ) from error


def said(error: BaseException) -> str:
    """The kind and the first line of an error."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def to_device(tree: Any, device: torch.device, dtype: torch.dtype) -> Any:
    """Inputs of a model on a device; tensors of real numbers also get the dtype."""
    return map_tensors(
        tree, lambda t: t.to(device, dtype) if t.is_floating_point() else t.to(device)
    )


def inputs_for(model: nn.Module, example_inputs: Any) -> Any:
    """Example inputs on the device and in the dtype of a model's first real parameter."""
    like = next((p for p in model.parameters() if p.is_floating_point()), torch.zeros(()))
    return to_device(example_inputs, like.device, like.dtype)


def two_samples(example_inputs: Any) -> Any:
    """A batch of two where all tensors say how many samples they are; else as it was.

    Two, since batch norm in training mode needs more than one value of a channel.

    Example:
        >>> two_samples({"x": torch.zeros(8, 3), "y": torch.zeros(8)})["x"].shape
        torch.Size([2, 3])
    """
    sizes = {t.shape[0] if t.ndim else 0 for t in tensors_of(example_inputs)}
    if len(sizes) != 1 or 0 in sizes or 2 in sizes:
        return example_inputs
    index = [0, 1] if sizes != {1} else [0, 0]
    return map_tensors(example_inputs, lambda t: t[torch.tensor(index, device=t.device)])


class RunningModules:
    """The names of the modules that run, the innermost last; after an error, where it was.

    Args:
        model: whose modules are named.
    """

    def __init__(self, model: nn.Module) -> None:
        self._names = {id(module): name for name, module in model.named_modules()}
        self.stack: list[str] = []

    @property
    def innermost(self) -> str:
        """The name of the module that runs; "" for the model itself."""
        return self.stack[-1] if self.stack else ""

    def entered(self, module: nn.Module, args: Any) -> None:
        """A module starts."""
        self.stack.append(self._names.get(id(module), self.innermost))

    def left(self, module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        """A module has ended."""
        if self.stack:
            self.stack.pop()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """While this lasts, modules are followed."""
        hooks = [
            register_module_forward_pre_hook(self.entered),
            register_module_forward_hook(self.left, with_kwargs=True),
        ]
        try:
            yield
        finally:
            for hook in hooks:
                hook.remove()


@contextmanager
def untouched(model: nn.Module, training: bool = False) -> Iterator[None]:
    """One mode for all modules, without gradients; modes, buffers and randomness are restored.

    Decoders keep no cache, and compiled parts run as they are written.

    Args:
        model: any module.
        training: training mode; else evaluation mode.
    """
    modes = [(module, module.training) for module in model.modules()]
    buffers = [(buffer, buffer.detach().clone()) for buffer in model.buffers()]
    devices = {t.device for t in model.parameters() if t.device.type == "cuda"}
    drawn = random.getstate(), np.random.get_state()
    with ExitStack() as stack:
        stack.callback(random.setstate, drawn[0])
        stack.callback(np.random.set_state, drawn[1])
        stack.enter_context(torch.random.fork_rng(devices=list(devices)))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.no_grad())
        stack.enter_context(_without_caches(model))
        if "torch._dynamo" in sys.modules:
            stack.enter_context(warnings.catch_warnings())
            warnings.filterwarnings("ignore", message="Using `torch.compile")  # our own hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            for module, _ in modes:
                # one that talks to other ranks would wait for them here
                module.training = training and not isinstance(module, nn.SyncBatchNorm)
            yield
        finally:
            for module, mode in modes:
                module.training = mode
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)


@contextmanager
def _without_caches(model: nn.Module) -> Iterator[None]:
    """``use_cache`` of transformers' configs is off, as a cache is no output."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    switched = [c for c in configs.values() if getattr(c, "use_cache", False) is True]
    for config in switched:
        config.use_cache = False
    try:
        yield
    finally:
        for config in switched:
            config.use_cache = True


def kept_tensors(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Tensors that a model's modules keep as plain attributes, with the attribute's name."""
    for name, module in model.named_modules():
        for attribute, value in vars(module).items():
            if attribute.startswith(("_parameters", "_buffers", "_modules", "_flat_weights")):
                continue
            if isinstance(value, _KEPT) or is_dataclass(value):
                for tensor in tensors_of(value):
                    yield f"{name}.{attribute}" if name else attribute, tensor
