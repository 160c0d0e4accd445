"""What the stages of the walk share: the run, and the block at work."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.neurons import beside
from steppe.core.prunable import prunable
from steppe.engine.blockwise.allocation import for_block
from steppe.engine.blockwise.blocks import Blocks
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.dense import DenseModel
from steppe.engine.blockwise.states import HiddenStates
from steppe.method import Method


@dataclasses.dataclass(kw_only=True)
class Run:
    """A walk over a model's blocks.

    Args:
        blocks: the model.
        method: what is done, with the whole model's budget.
        config: how to walk.
        out: the folder of the result.
        layers: the layers that are pruned, of all blocks.
        states: the blocks' inputs; None when nothing needs calibration windows.
        dense: the dense model, where the one that is walked was pruned before.
        notes: sentences for the record: a fallback, a layer that was never used.
    """

    blocks: Blocks
    method: Method
    config: BlockwiseConfig
    out: Path
    layers: list[Layer]
    states: HiddenStates | None = None
    dense: DenseModel | None = None
    notes: list[str] = dataclasses.field(default_factory=list)

    def note(self, text: str) -> None:
        """Keep a sentence for the record."""
        self.notes.append(text)

    @property
    def inputs(self) -> HiddenStates:
        """The blocks' inputs, for stages that run only when there are calibration windows."""
        assert self.states is not None, "this stage needs calibration windows"
        return self.states

    def load(self, index: int, counts: Mapping[str, int] | None) -> BlockContext:
        """A block in memory, ready to be worked at.

        Args:
            index: which.
            counts: layer name -> units that it loses, of all layers; None to look at it only.

        Raises:
            SteppeError: the block would lose all of its weights.
        """
        layers = [x for x in self.layers if x.block == self.blocks.names[index]]
        module = self.blocks.load(index)
        pieces = _pieces(_named(module), layers)
        block = BlockContext(
            run=self,
            method=for_block(self.method, counts, layers) if counts and layers else self.method,
            index=index,
            module=module,
            layers=layers,
            pieces=pieces,
            counts={x.name: counts[x.name] for x in layers} if counts else {},
            dense=self.dense.tensors(index) if self.dense is not None else None,
        )
        block.zeros = {x.name: block.zeros_of(x) for x in layers}
        if layers and not self.config.regrow:
            every = _pieces(_named(module), block.every_layer(module))
            gone = {n: w == 0 for n, (_, w) in every.items()}
            block.gone = {n: g for n, g in gone.items() if bool(g.any())}
        return block


@dataclasses.dataclass(kw_only=True)
class BlockContext:
    """One block at work: what each stage reads, and what it leaves for the next.

    Args:
        run: the walk that it is part of.
        method: the method with a budget of exactly this block's counts.
        index: its place in the model.
        module: the block itself, in memory.
        layers: those of its layers that are pruned.
        pieces: piece name -> (layer, weight); the experts of a mixture apart. Stages change the
            weights in place.
        counts: layer name -> units that it loses.
        zeros: layer name -> weights of it that were zero before.
        gone: piece name -> booleans, True where a weight was zero before and stays so, of all
            layers of the block that had zeros, pruned or not.
        statistics: what calibration saw of the layers' inputs, if the method needs any.
        dense: name -> tensor of the dense block, where the model was pruned before.
        shifts: piece name -> what the bias of that layer gained, ``[rows]``.
        errors: piece name -> output error, where the work on the block measured it.
        judged: stage -> its errors on windows that its training did not see.
        coupling: what the coupling of its training showed at the end.
        seconds: stage -> how long it took.
    """

    run: Run
    method: Method
    index: int
    module: nn.Module
    layers: list[Layer]
    pieces: Mapping[str, tuple[Layer, Tensor]]
    counts: Mapping[str, int]
    zeros: Mapping[str, int] = dataclasses.field(default_factory=dict)
    gone: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)
    statistics: CalibrationCollector | None = None
    dense: Mapping[str, Tensor] | None = None
    shifts: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    errors: dict[str, float] = dataclasses.field(default_factory=dict)
    judged: dict[str, dict[str, Any]] = dataclasses.field(default_factory=dict)
    coupling: dict[str, float] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def weights(self) -> dict[str, Tensor]:
        """Piece name -> weight."""
        return {name: weight for name, (_, weight) in self.pieces.items()}

    def look_again(self) -> None:
        """Take the weights that the module has now: a parametrisation that was folded made new."""
        self.pieces = _pieces(_named(self.module), self.layers)

    def zeros_of(self, layer: Layer) -> int:
        """How many of a layer's weights are zero now."""
        weights = [self.pieces[p.name][1] for p in layer.split()]
        return sum(w.numel() - int(torch.count_nonzero(w)) for w in weights)

    def every_layer(self, module: nn.Module) -> list[Layer]:
        """The layers of the block or of a module in it, pruned or not, by their names in the model.

        Args:
            module: the block, or a child of it.
        """
        place = next(n for n, m in self.module.named_modules() if m is module)
        name = self.layers[0].block
        prefix = f"{name}.{place}" if place else name
        inside = prunable(module)[0]
        return [dataclasses.replace(x, name=f"{prefix}.{x.name}", block=name) for x in inside]

    def bias(self, layer: Layer) -> Tensor:
        """What a layer adds to its outputs, to be changed in place; it must have one."""
        parameters = _named(self.module)
        return parameters[beside(self.relative(layer), "bias")].detach()

    def alive(self, layer: Layer) -> Tensor:
        """Where a layer's weights are not zero now, in its shape."""
        pieces = [self.pieces[p.name][1] != 0 for p in layer.split()]
        return torch.stack(pieces) if layer.stacked else pieces[0]

    def note(self, text: str) -> None:
        """Keep a sentence for the record of the run."""
        self.run.note(text)

    @property
    def measured(self) -> bool:
        """Whether output errors are asked for, and there are windows to measure them on."""
        return self.run.states is not None and self.run.config.measure > 0

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Measure the seconds of a stage."""
        began = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - began

    def relative(self, layer: Layer) -> str:
        """A layer's name inside the block."""
        return layer.name.removeprefix(f"{layer.block}.")


def _named(module: nn.Module) -> dict[str, nn.Parameter]:
    """Parameters by all of their names: layers may share one."""
    return dict(module.named_parameters(remove_duplicate=False))


def _pieces(
    parameters: Mapping[str, Tensor], layers: list[Layer]
) -> dict[str, tuple[Layer, Tensor]]:
    pieces: dict[str, tuple[Layer, Tensor]] = {}
    for layer in layers:
        weight = parameters[layer.name.removeprefix(f"{layer.block}.")].detach()
        weights = list(weight) if layer.stacked else [weight]
        pieces.update({p.name: (p, w) for p, w in zip(layer.split(), weights, strict=True)})
    return pieces


def dense_copies(block: BlockContext) -> dict[str, Tensor]:
    """Piece name -> the dense weight; a copy of the weight as it is now if it is dense still."""
    if block.dense is not None:
        return {name: weight for name, (_, weight) in _pieces(block.dense, block.layers).items()}
    return {name: torch.clone(weight) for name, weight in block.weights.items()}
