"""What of a block is optimised at a time, with its inputs and its targets."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.blockwise.call_form import (
    Arguments,
    CallForm,
    first_tensor,
    positional,
    windows_dimension,
)
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.states import Activations
from steppe.engine.blockwise.sublayers import Sublayer, continued, sublayers

Forward = Callable[[Tensor, nn.Module], Tensor]


@dataclasses.dataclass(kw_only=True)
class Stage:
    """A module of a block that is optimised by itself, or a part of what it computes.

    Args:
        name: of the module in the block, with a dot at its end; empty for the block itself.
        module: the module.
        forward: (inputs, module) -> outputs; the module may be wrapped.
        inputs: of the module, for all windows.
        layers: its layers that are pruned.
        title: what the record calls it.
        apart: parameters of the module that have no part in the stage.
        part: the sub-layer of the block that it is, if it is one.
    """

    name: str
    module: nn.Module
    forward: Forward
    inputs: Activations
    layers: list[Layer]
    title: str = "block"
    apart: frozenset[str] = frozenset()
    part: Sublayer | None = None

    def parameters(self) -> dict[str, nn.Parameter]:
        """Name in the module -> parameter, of all that the stage may move."""
        named = self.module.named_parameters()
        return {n: p for n, p in named if p.is_floating_point() and n not in self.apart}


def stages(block: BlockContext) -> Iterator[Stage]:
    """The block itself, its sub-layers or its children one after the other, as the objective says.

    The inputs of each are computed when its turn comes, from what those before it became. A block
    that stands for several of a dense model is one stage: their parts are none of its own.
    """
    dense = block.run.dense
    if dense is not None and len(dense.stands_for[block.index]) > 1:
        return _block(block)
    return _STAGES[block.method.objective.stages](block)


def _block(block: BlockContext) -> Iterator[Stage]:
    yield Stage(
        name="",
        module=block.module,
        forward=lambda x, module: block.run.blocks.call(block.index, x, module),
        inputs=block.run.inputs.of(block.index),
        layers=block.layers,
    )


def _in_sublayers(block: BlockContext) -> Iterator[Stage]:
    run, inputs = block.run, block.run.inputs.of(block.index)

    def call(state: Tensor, module: nn.Module) -> Tensor:
        return run.blocks.call(block.index, state, module)

    names = [n for n in _children_in_order(block) if _has_matrices(block.module.get_submodule(n))]
    sample = inputs.tensor[:2].to(run.blocks.device)
    found = sublayers(block.module, names, call, sample)
    if not found:
        said = "is one stage: attention and feed-forward are not one after the other in it"
        if not any(said in note for note in run.notes):
            block.note(f"{run.blocks.names[block.index]} {said} (others like it are not named)")
        yield from _block(block)
        return
    for part in found:
        within = tuple(f"{name}." for name in part.children)
        stage = Stage(
            name="",
            module=block.module,
            forward=part.forward,
            inputs=inputs,
            layers=[x for x in block.layers if block.relative(x).startswith(within)],
            title="+".join(part.children),
            apart=part.apart(sample),
            part=part,
        )
        yield stage
        if part is not found[-1]:
            inputs = behind(block, inputs, partial(_outputs, block, stage), "stage.bin")
    inputs.delete()


@torch.no_grad()
def behind(
    block: BlockContext, inputs: Activations, stream: Callable[[slice], Tensor], name: str
) -> Activations:
    """What a block gets for its next sub-layer.

    Args:
        block: the block at work.
        inputs: what it got for this one.
        stream: windows -> the residual stream behind this one.
        name: of the file.
    """
    run = block.run
    following = run.inputs.scratch(name, inputs.shape[1:])
    for windows in run.inputs.slices():
        following.tensor[windows] = continued(inputs.tensor[windows], stream(windows))
    ranks.barrier()
    return following


def _outputs(block: BlockContext, stage: Stage, windows: slice) -> Tensor:
    state = stage.inputs.tensor[windows].to(block.run.blocks.device)
    return stage.forward(state, stage.module).float().cpu()


def _has_matrices(module: nn.Module) -> bool:
    return any(p.ndim > 1 for p in module.parameters())


def _children_apart(block: BlockContext) -> Iterator[Stage]:
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
        for name, child in _children(block.module)
    ]
    run = block.run
    with torch.no_grad():
        first = run.inputs.of(block.index).tensor[:1].to(run.blocks.device)
        run.blocks.call(block.index, first)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(order))


def _children(module: nn.Module, above: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Children by name; those of a list, which does not run itself, in its place."""
    for name, child in module.named_children():
        if isinstance(child, nn.ModuleList | nn.ModuleDict):
            yield from _children(child, f"{above}{name}.")
        else:
            yield above + name, child


class _EnoughError(Exception):
    """The child's inputs are known: the rest of the block need not run."""


class _ChildCalls:
    """What a block passes to one of its children, one row of numbers for each window."""

    def __init__(self, block: BlockContext, child: nn.Module, name: str) -> None:
        self._block, self._child = block, child
        windows = block.run.inputs.of(block.index).tensor
        # as many different windows as there are, the first again where there are fewer than three
        three = windows[[i % len(windows) for i in range(3)]].to(block.run.blocks.device)
        calls = self._given(three[1:]), self._given(three)
        self.form = CallForm(*calls, name, positional(child))
        with torch.no_grad():
            fewer, more = (first_tensor(child(*args, **kwargs), name) for args, kwargs in calls)
        self._name, self._dimension = name, windows_dimension(more, fewer, name)

    def _given(self, state: Tensor) -> Arguments:
        """The child's arguments for what the block gets."""
        seen: list[Arguments] = []

        def take(module: nn.Module, args: Any, kwargs: Any) -> None:
            seen.append((args, kwargs))
            raise _EnoughError

        handle = self._child.register_forward_pre_hook(take, with_kwargs=True)
        try:
            with torch.no_grad(), contextlib.suppress(_EnoughError):
                self._block.run.blocks.call(self._block.index, state)
        finally:
            handle.remove()
        assert seen, "the block did not call its child"
        return seen[0]

    def of(self, state: Tensor) -> Tensor:
        """The child's rows for what the block gets."""
        return self.form.pack(self._given(state))

    def forward(self, rows: Tensor, module: nn.Module) -> Tensor:
        """The child's outputs, called as the block calls it."""
        args, kwargs = self.form.unpack(rows)
        outputs = first_tensor(module(*args, **kwargs), self._name)
        return outputs.movedim(self._dimension, 0)


def _child_stage(block: BlockContext, name: str, layers: list[Layer]) -> Stage:
    run, child = block.run, block.module.get_submodule(name)
    calls = _ChildCalls(block, child, f"{run.blocks.names[block.index]}.{name}")
    states = run.inputs.of(block.index)
    inputs = run.inputs.scratch("stage.bin", (calls.form.width,))
    for windows in run.inputs.slices():
        inputs.tensor[windows] = calls.of(states.tensor[windows].to(run.blocks.device)).cpu()
    ranks.barrier()
    return Stage(
        name=f"{name}.",
        module=child,
        forward=calls.forward,
        inputs=inputs,
        layers=layers,
        title=name,
    )


_STAGES = {"block": _block, "children": _children_apart, "sublayers": _in_sublayers}


@torch.no_grad()
def dense_targets(
    block: BlockContext,
    stage: Stage,
    dense: Mapping[str, Tensor] | None,
    given: Activations | None = None,
) -> Activations:
    """What the dense module makes of hidden states, in full precision.

    Args:
        block: the block that the module is part of.
        stage: the module and its inputs.
        dense: the block's tensors before its weights were solved for a start; None if they are
            dense still.
        given: the hidden states; those of the pruned model if not given.
    """
    run, module, given = block.run, stage.module, given or stage.inputs
    if run.dense is not None and not run.dense.alike:
        targets = run.inputs.scratch("targets.bin", given.shape[1:])
        run.dense.through(block.index, given, targets, stage.part)
        return targets
    now = module.state_dict()
    started = {n: t.clone() for n, t in now.items()} if dense is not None else {}
    if dense is not None:
        module.load_state_dict({n: dense[stage.name + n] for n in now})
    first = given.tensor[:1].to(run.blocks.device)
    targets = run.inputs.scratch("targets.bin", tuple(stage.forward(first, module).shape[1:]))
    for windows in run.inputs.slices():
        hidden = given.tensor[windows].to(run.blocks.device)
        targets.tensor[windows] = stage.forward(hidden, module).float().cpu()
    ranks.barrier()
    if started:
        module.load_state_dict(started)
    return targets
