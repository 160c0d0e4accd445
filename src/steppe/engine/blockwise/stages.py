"""What of a block is optimised at a time, with its inputs and its targets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.states import Activations

Forward = Callable[[Tensor, nn.Module], Tensor]


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A module of a block that is optimised by itself.

    Args:
        name: of the module in the block, with a dot at its end; empty for the block itself.
        module: the module.
        forward: (inputs, module) -> outputs; the module may be wrapped.
        inputs: of the module, for all windows.
        layers: its layers that are pruned.
    """

    name: str
    module: nn.Module
    forward: Forward
    inputs: Activations
    layers: list[Layer]


def stages(block: BlockContext) -> Iterator[Stage]:
    """The block itself, or its children one after the other, as the objective says.

    A child's inputs are computed when its turn comes, from what the children before it became.
    """
    if block.method.objective.stages == "block":
        yield Stage(
            name="",
            module=block.module,
            forward=lambda x, module: block.run.blocks.call(block.index, x, module),
            inputs=block.run.inputs.of(block.index),
            layers=block.layers,
        )
        return
    for name in _children_in_order(block):
        layers = [x for x in block.layers if block.relative(x).startswith(f"{name}.")]
        if layers:
            stage = _child_stage(block, name, layers)
            yield stage
            stage.inputs.delete()


def _children_in_order(block: BlockContext) -> list[str]:
    """The block's children in the order in which they run."""
    order: list[str] = []
    hooks = [
        child.register_forward_pre_hook(lambda m, a, name=name: order.append(name))
        for name, child in block.module.named_children()
    ]
    run = block.run
    with torch.no_grad():
        first = run.inputs.of(block.index).tensor[:1].to(run.blocks.device)
        run.blocks.call(block.index, first)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


class _EnoughError(Exception):
    """The child's inputs are known: the rest of the block need not run."""


class _ChildInputs:
    """What a block passes to one of its children: hidden states, and the rest by their shape."""

    def __init__(self, block: BlockContext, child: nn.Module) -> None:
        self._block, self._child = block, child
        self._arguments: dict[tuple[int, ...], tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._hidden: Tensor | None = None

    def of(self, hidden: Tensor) -> Tensor:
        """The child's hidden states for those of the block."""
        handle = self._child.register_forward_pre_hook(self._take, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_EnoughError):
                self._block.run.blocks.call(self._block.index, hidden)
        finally:
            handle.remove()
        taken, self._hidden = self._hidden, None
        assert taken is not None, "the block did not call its child"
        return taken

    def _take(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        kwargs = dict(kwargs)
        hidden = args[0] if args else kwargs.pop("hidden_states")
        self._arguments[tuple(hidden.shape[:2])] = (tuple(args[1:]), kwargs)
        self._hidden = hidden
        raise _EnoughError

    def forward(self, x: Tensor, module: nn.Module) -> Tensor:
        """The child's outputs, called as the block calls it."""
        shape = tuple(x.shape[:2])
        if shape not in self._arguments:
            run = self._block.run
            states = run.inputs.of(self._block.index)
            self.of(states.tensor[: x.shape[0]].to(run.blocks.device))
        args, kwargs = self._arguments[shape]
        returned = module(x, *args, **kwargs)
        outputs: Tensor = returned[0] if isinstance(returned, tuple) else returned
        return outputs


def _child_stage(block: BlockContext, name: str, layers: list[Layer]) -> Stage:
    run, child = block.run, block.module.get_submodule(name)
    child_inputs, device = _ChildInputs(block, child), block.run.blocks.device
    states = run.inputs.of(block.index)
    width = child_inputs.of(states.tensor[:1].to(device)).shape[-1]
    inputs = run.inputs.scratch("stage.bin", width)
    for windows in run.inputs.slices():
        hidden = states.tensor[windows].to(device)
        inputs.tensor[windows] = child_inputs.of(hidden).float().cpu()
    ranks.barrier()
    return Stage(
        name=f"{name}.",
        module=child,
        forward=child_inputs.forward,
        inputs=inputs,
        layers=layers,
    )


@torch.no_grad()
def dense_targets(
    block: BlockContext, stage: Stage, dense: Mapping[str, Tensor] | None
) -> Activations:
    """What the dense module makes of the pruned model's hidden states, in full precision.

    Args:
        block: the block that the module is part of.
        stage: the module and its inputs.
        dense: the block's tensors before its weights were solved for a start; None if they are
            dense still.
    """
    run, module = block.run, stage.module
    now = module.state_dict()
    started = {n: t.clone() for n, t in now.items()} if dense is not None else {}
    if dense is not None:
        module.load_state_dict({n: dense[stage.name + n] for n in now})
    first = stage.inputs.tensor[:1].to(run.blocks.device)
    width = stage.forward(first, module).shape[-1]
    targets = run.inputs.scratch("targets.bin", width)
    for windows in run.inputs.slices():
        hidden = stage.inputs.tensor[windows].to(run.blocks.device)
        targets.tensor[windows] = stage.forward(hidden, module).float().cpu()
    ranks.barrier()
    if started:
        module.load_state_dict(started)
    return targets
