"""Each layer solved at several sparsities, in a folder, for budgets that mix them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from steppe.core.protocols import LayerSolver
from steppe.core.serialization import damaged, write_tensors
from steppe.engine import ranks
from steppe.engine.blockwise.calibrate import collect
from steppe.engine.blockwise.context import BlockContext, Run, dense_copies
from steppe.engine.blockwise.solve import as_start, solve_block
from steppe.engine.host_memory import reused
from steppe.engine.progress import advanced

Offers = Mapping[str, Mapping[int, int]]


class LevelDatabase:
    """Solved layers in one file for each block; what is there is not solved again.

    The layers are solved from their inputs in the dense model, as the method solves them: by its
    solver, by what its blocks start from, or else by its score alone.

    Args:
        run: the walk; its model is left as it is.
        offers: layer name -> level -> units that it loses.
        windows: the layers are solved on the first so many.
        folder: where the files are.
    """

    def __init__(self, run: Run, offers: Offers, windows: int, folder: Path) -> None:
        self._run, self._offers = run, offers
        self._windows, self._folder = windows, folder

    def build(self) -> None:
        """Solve what is not there yet, in one pass of the dense model up to the last such block."""
        run, places = self._run, {layer.block for layer in self._run.layers}
        names = run.blocks.names
        missing = {i for i, n in enumerate(names) if n in places and not self.path(i).exists()}
        ranks.barrier()  # all have looked before the first one writes
        if not missing:
            return
        run.inputs.embed(0)
        last = max(missing)
        for index in range(last + 1):
            advanced("layers at all levels", index, len(names), "blocks")
            block = run.load(index, None)
            with reused():
                if index in missing:
                    self._calibrate(block)
                if index < last:
                    run.inputs.propagate(index)
                if index in missing:
                    self._solve(block)
            run.blocks.free(index)
        advanced("layers at all levels", len(names), len(names), "blocks")

    def path(self, index: int) -> Path:
        """The file of a block."""
        return self._folder / f"block-{index:05d}.safetensors"

    def place(self, index: int, module: nn.Module, levels: Mapping[str, int]) -> None:
        """Give a block's layers the weights that they have at some levels, in place.

        Args:
            index: which block.
            module: the block, in memory.
            levels: layer name -> level; the others stay as they are.

        Raises:
            SteppeError: the file is not as it was written.
        """
        if not levels:
            return
        parameters, prefix = dict(module.named_parameters()), f"{self._run.blocks.names[index]}."
        try:
            with safe_open(self.path(index), framework="pt") as file:
                for name, level in levels.items():
                    saved = file.get_tensor(_key(name, level))
                    parameters[name.removeprefix(prefix)].data.copy_(saved)
        except (OSError, SafetensorError) as error:
            raise damaged(self.path(index), error) from None

    def _calibrate(self, block: BlockContext) -> None:
        method = block.run.method
        needs = sorted(method.calibration_needs | set(method.objective.start_needs))
        if needs:
            block.statistics = collect(block, needs, windows=self._windows)

    def _solve(self, block: BlockContext) -> None:
        method, index = block.method, block.index
        start = method.objective.starts_from
        solver = start or method.solver or LayerSolver.make("hard_mask")
        ranked = as_start(method, start) if start else method
        dense = dense_copies(block)
        tensors: dict[str, Tensor] = {}
        for level in _sorted(level for x in block.layers for level in self._offers[x.name]):
            block.counts = {
                x.name: self._offers[x.name][level]
                for x in block.layers
                if level in self._offers[x.name]
            }
            for name, weight in block.weights.items():
                weight.copy_(dense[name])
            layers = [x for x in block.layers if x.name in block.counts]
            solve_block(block, solver, layers, ranked)
            block.run.blocks.round(index)
            parameters = dict(block.module.named_parameters())
            for layer in layers:
                saved = parameters[block.relative(layer)].detach()
                tensors[_key(layer.name, level)] = _narrow(saved).cpu().contiguous().clone()
        if ranks.first():
            counts = {x.name: self._offers[x.name] for x in block.layers}
            write_tensors(self.path(index), tensors, {"units": json.dumps(counts)})
        ranks.barrier()


def _key(name: str, level: int) -> str:
    return f"{name}@{level}"


def _sorted(levels: Iterable[int]) -> list[int]:
    return sorted(set(levels))


def _narrow(weight: Tensor) -> Tensor:
    """The weight in a dtype of half the size, where that has all of its values."""
    for dtype in (torch.float16, torch.bfloat16):
        narrow = weight.to(dtype)
        if torch.equal(narrow.to(weight.dtype), weight):
            return narrow
    return weight
