"""A model pruned block by block, of which one block is in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.core.protocols import LevelBudget
from steppe.core.serialization import write_tensors
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import counts_of
from steppe.engine.blockwise.blocks import Blocks
from steppe.engine.blockwise.calibrate import calibrate, profile
from steppe.engine.blockwise.compatibility import check
from steppe.engine.blockwise.config import BlockwiseConfig
from steppe.engine.blockwise.context import BlockContext, Run, dense_copies
from steppe.engine.blockwise.dense import DenseModel
from steppe.engine.blockwise.journal import DONE_BEFORE, Journal
from steppe.engine.blockwise.level_search import forget_layers, searched
from steppe.engine.blockwise.measure import layer_row, output_errors
from steppe.engine.blockwise.reconstruct import reconstruct, solve_start
from steppe.engine.blockwise.solve import solve_block
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.host_memory import reused
from steppe.method import Method

Work = Callable[[BlockContext], tuple[dict[str, Tensor], dict[str, float]]]


class Blockwise:
    """Prunes a model's decoder blocks one after the other; goes on where it was.

    For each block: calibrate on the inputs that the already pruned blocks produce, prune, round
    to the stored dtype, measure, compute the next block's inputs, write, note it in the journal.

    Args:
        blocks: the model.
        method: with a layer or block reconstruction objective.
        config: how to walk.
        tokens: calibration windows ``[windows, tokens]``; None when nothing needs them.
        out: where shards, masks and the state to resume from go.
        include: shell patterns of the layers to prune.
        exclude: shell patterns of what stays dense.
        report: called with each block's row of the record.
        dense: the dense model, where this one was pruned before and is led back to it.
        places: where its blocks were in the dense model, if shapes are others there.
        work: what is done to a block once it is loaded; prunes it by the method if not given.

    Raises:
        SteppeError: the method does not work block by block, a layer cannot have the structure.
    """

    def __init__(
        self,
        blocks: Blocks,
        method: Method,
        config: BlockwiseConfig,
        tokens: Tensor | None,
        out: Path,
        *,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        report: Callable[[dict[str, Any]], None] = lambda row: None,
        dense: Blocks | None = None,
        places: Sequence[int] | None = None,
        work: Work | None = None,
    ) -> None:
        layers = method.structure.among(blocks.layers(include, exclude))
        check(method, layers, tokens)
        folder = out / "checkpoints"
        states = None
        if tokens is not None:
            states = HiddenStates(blocks, tokens, folder, config.micro_batch)
        beside = None
        if dense is not None:
            assert tokens is not None, "the method needs windows, which was checked"
            beside = DenseModel(dense, tokens, folder, config.micro_batch, places)
        self._work = work or prune_block
        self.journal, self.report = Journal(folder / "journal.json"), report
        self.context = Run(
            blocks=blocks,
            method=method,
            config=config,
            out=out,
            layers=layers,
            states=states,
            dense=beside,
            notes=list(self.journal.get("notes", [])),
        )

    @property
    def notes(self) -> list[str]:
        """Sentences for the record: fallbacks, layers that no token reached."""
        return self.context.notes

    def run(self) -> list[dict[str, Any]]:
        """Prune what is left to prune; the rows of all blocks.

        Raises:
            SteppeError: the hidden states to go on from are gone.
        """
        with self._draws_apart():
            return self._run()

    def first_block(self) -> dict[str, Any]:
        """Prune only the first block that loses weights; its row of the record.

        Its inputs are those of the dense model, or the embeddings, wherever it is. Nothing is noted
        in the journal, so that a later `run` begins at the beginning.
        """
        run, places = self.context, {layer.block for layer in self.context.layers}
        index = next(i for i, name in enumerate(run.blocks.names) if name in places)
        counts = counts_of(run.method, run.layers, dict.fromkeys((x.name for x in run.layers), 0.0))
        with self._draws_apart():
            if run.states is not None:
                run.states.embed(index)
            return self._block(index, counts)

    def _draws_apart(self) -> AbstractContextManager[None]:
        """The caller's random draws go on undisturbed."""
        device = self.context.blocks.device
        return torch.random.fork_rng([device] if device.type == "cuda" else [])

    def _run(self) -> list[dict[str, Any]]:
        blocks, states = self.context.blocks, self.context.states
        rows: list[dict[str, Any]] = list(self.journal.get("blocks", []))
        for row in rows:
            self.report(row | {DONE_BEFORE: True})
        if len(rows) == len(blocks):
            return rows
        blocks.restore(len(rows), self.context.out)
        if states is not None:
            # so that it knows how blocks are called
            blocks.inputs(len(rows), states.tokens[:1])
        counts = self._counts()
        if states is not None:
            states.resume(len(rows)) if rows else states.embed(0)
        if self.context.dense is not None:
            self.context.dense.begin(len(rows))
        for index in range(len(rows), len(blocks)):
            rows.append(self._block(index, counts))
            self.journal.put(blocks=rows, notes=self.notes)
            self.report(rows[-1])
        return rows

    def _counts(self) -> dict[str, int]:
        """Units that each layer loses, fixed before the first block."""
        run, levels = self.context, self.journal.path.parent / "levels"
        counts: dict[str, int] | None = self.journal.get("counts")
        if counts is None:
            budget = run.method.budget
            if isinstance(budget, LevelBudget):
                counts = searched(run, budget, levels)
            else:
                counts = counts_of(run.method, run.layers, profile(run))
            self.journal.put(counts=counts)
        if ranks.first():
            forget_layers(levels)
        return {str(k): int(v) for k, v in counts.items()}

    def _block(self, index: int, counts: Mapping[str, int]) -> dict[str, Any]:
        """All stages of one block; its row of the record."""
        began, run = time.perf_counter(), self.context
        torch.manual_seed(run.config.seed * 1_000_003 + index)
        block = run.load(index, counts)
        block.seconds["load"] = time.perf_counter() - began
        dense = dense_copies(block) if block.measured else {}
        with reused():
            masks, solving = self._work(block) if block.layers else ({}, {})
            with block.timed("propagate"):
                errors = self._round_and_propagate(block, dense)
            if not run.config.regrow:  # masks say what is zero, also what the dtype rounded to it
                masks = {x.name: masks[x.name] & block.alive(x) for x in block.layers}
        with block.timed("write"):
            if ranks.first():
                self._write(block, masks)
            ranks.barrier()
            rows = [layer_row(block, x, masks[x.name], errors, solving) for x in block.layers]
            nonzero = sum(int(torch.count_nonzero(p)) for p in block.module.parameters())
            run.blocks.free(index)
        block.seconds["all"] = time.perf_counter() - began
        seconds = {stage: round(value, 4) for stage, value in block.seconds.items()}
        row = {"block": index, "layers": rows, "nonzero": nonzero, "seconds": seconds}
        more = {"held_out": block.judged, "coupling": block.coupling}
        return row | {key: value for key, value in more.items() if value}

    def _round_and_propagate(
        self, block: BlockContext, dense: Mapping[str, Tensor]
    ) -> dict[str, float]:
        """To the stored dtype; the next block's inputs are written. Output errors by piece."""
        run = self.context
        run.blocks.round(block.index)
        _check_finite(block)
        errors = block.errors or (output_errors(block, dense) if dense else {})
        if run.states is not None and block.index + 1 < len(run.blocks):
            run.states.propagate(block.index)
            run.states.of(block.index + 1).flush()
            if run.dense is not None:
                run.dense.propagate(block.index)
        return errors

    def _write(self, block: BlockContext, masks: Mapping[str, Tensor]) -> None:
        run, number = self.context, block.index + 1
        run.blocks.write(block.index, run.out)
        name = f"masks-{number:05d}-of-{len(run.blocks):05d}.safetensors"
        write_tensors(run.out / name, pack(dict(masks)), {"packing": "numpy.packbits"})


def _check_finite(block: BlockContext) -> None:
    """Weights that are no numbers are never written: their zeros are lost too.

    Raises:
        SteppeError: some of the block's are NaN or infinite.
    """
    for name, weight in block.module.named_parameters():
        if weight.is_floating_point() and not bool(weight.isfinite().all()):
            trained = block.method.objective.scope == "block"
            lr = block.run.config.reconstruction.lr
            raise SteppeError(
                "a block's weights stay finite numbers",
                got=f"NaN or infinity in {block.run.blocks.names[block.index]}.{name}"
                + f", trained with a learning rate of {lr:g}" * trained,
                way_out=f"a smaller one (--lr {lr / 10:g})"
                if trained
                else "more calibration windows, or --method wanda",
            )


def prune_block(block: BlockContext) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Prune a block in place; layer name -> mask, piece name -> seconds of its solver."""
    with block.timed("calibrate"):
        calibrate(block)
    if block.method.objective.scope == "layer":
        with block.timed("prune"):
            solver = block.method.solver
            assert solver is not None, "an objective over layers fits solvers only"
            return solve_block(block, solver)
    with block.timed("start"):
        start = solve_start(block)
    with block.timed("prune"):
        masks = reconstruct(block, start)
        block.look_again()
        return masks, {}
