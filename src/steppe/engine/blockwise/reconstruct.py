"""A block optimised to do what the dense one did, under a method's constraint."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.protocols import LayerSolver
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import for_block
from steppe.engine.blockwise.batches import batches, share
from steppe.engine.blockwise.config import ReconstructionConfig
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.held_out import HeldOut, one_is_held_out, windows_apart
from steppe.engine.blockwise.solve import as_start, solve_block
from steppe.engine.blockwise.stages import Stage, dense_targets, stages
from steppe.engine.blockwise.states import Activations
from steppe.engine.mask_keeper import MaskKeeper
from steppe.engine.optim import optimizer, options_of
from steppe.engine.step.finished import Finished
from steppe.engine.step.options import StepOptions
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.sparsify import sparsify
from steppe.method import Method


@dataclasses.dataclass(frozen=True, kw_only=True)
class Start:
    """What a block's optimisation starts from.

    Args:
        dense: the block's tensors before its layers were solved; None if they are dense still.
        masks: layer name -> the mask that its solver chose.
    """

    dense: Mapping[str, Tensor] | None = None
    masks: Mapping[str, Tensor] = dataclasses.field(default_factory=dict)


def solve_start(block: BlockContext) -> Start:
    """Solve a block's layers in place, if its objective starts from a solution."""
    solver = block.method.objective.starts_from
    if solver is None:
        return Start()
    dense = {n: t.clone() for n, t in block.module.state_dict().items()}
    masks, _ = solve_block(block, solver, method=as_start(block.method, solver))
    return Start(dense=dense, masks=masks)


def reconstruct(block: BlockContext, start: Start) -> dict[str, Tensor]:
    """Optimise a block in place so that it is sparse and flat and does what it did.

    Args:
        block: the block as the start left it.
        start: what that was made from.

    Returns:
        Layer name -> mask.
    """
    known = _known_statistics(block)
    masks: dict[str, Tensor] = {}
    run = block.run
    with run.blocks.fitting(run.config.reconstruction.precision == "bfloat16"):
        for stage in stages(block):
            targets = dense_targets(block, stage, start.dense)
            masks |= _Reconstruction(block, stage, targets).run(known, start.masks)
            targets.delete()
    return masks | _not_run(block, [x for x in block.layers if x.name not in masks])


def _not_run(block: BlockContext, layers: list[Layer]) -> dict[str, Tensor]:
    """Prune layers of children that the block does not call: their weights alone decide."""
    for layer in layers:
        block.note(f"{layer.name}: no calibration token reached it; its weights alone decided")
    return solve_block(block, LayerSolver.make("hard_mask"), layers)[0]


def _known_statistics(block: BlockContext) -> dict[str, dict[str, Tensor]]:
    """Calibration statistics as the score sees them: they broadcast over each weight."""
    known: dict[str, dict[str, Tensor]] = {need: {} for need in block.method.score.needs}
    statistics = block.statistics
    for need, of_layer in known.items():
        assert statistics is not None
        for layer in block.layers:
            pieces = [statistics.of(p.name)[need].expand(p.rows, p.columns) for p in layer.split()]
            of_layer[layer.name] = layer.unflat(torch.cat(pieces) if layer.stacked else pieces[0])
    return known


class _Reconstruction:
    """One stage of a block, optimised towards its targets."""

    def __init__(self, block: BlockContext, stage: Stage, targets: Activations) -> None:
        self.block, self.stage, self.targets = block, stage, targets
        self.config = block.run.config.reconstruction
        # names in the stage's own module, as its parameters have
        self.inside = {x.name: block.relative(x).removeprefix(stage.name) for x in stage.layers}

    def run(
        self, known: Mapping[str, Mapping[str, Tensor]], started: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Optimise the stage's module in place.

        Args:
            known: statistic -> layer name -> value, of the block's layers.
            started: layer name -> the start's mask, if there is a start.

        Returns:
            Layer name -> mask.
        """
        config, module = self.config, self.stage.module
        params = list(self.stage.parameters().values())
        for parameter in params:
            parameter.requires_grad_(True)
        taken = "betas" in options_of(config.optimizer)
        options = {"betas": config.betas} if taken else {}
        optim = optimizer(config.optimizer, params, config.lr, **options)
        trained_on, windows = self._windows()
        held_out = HeldOut(self.block, self.stage, self.targets, windows) if len(windows) else None
        order = list(batches(config, trained_on, self.block.run.config.seed))
        inside = self.inside
        zeros = self._zeros_that_were_there()
        if zeros:
            MaskKeeper(module, zeros).wrap(optim)
        statistics = {need: {inside[n]: v[n] for n in inside} for need, v in known.items()}
        sparsifier = sparsify(
            parallel(module),
            optim,
            self._method(),
            len(order),
            include=list(inside.values()),
            options=StepOptions(statistics=statistics),
        )
        for batch, lr in order:
            for group in optim.param_groups:
                group["lr"] = lr
            sparsifier.step(*self._closures(batch, sparsifier))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # noted below, where the record holds it
            finished = sparsifier.finish()
        self._note(sparsifier.notes, finished)
        self.block.coupling = sparsifier.coupling.shown(sparsifier.state)
        module.requires_grad_(False)
        optim.zero_grad(set_to_none=True)
        if held_out is not None and not held_out.better():
            return {name: started[name] for name in inside}
        return {name: finished.masks[inside[name]] for name in inside}

    def _windows(self) -> tuple[Tensor, Tensor]:
        """Indices of the windows that are trained on, and of those that the result is judged on."""
        objective, windows = self.block.method.objective, len(self.targets)
        judged_on = objective.judged_on(windows)
        if not judged_on and objective.judged_on(windows + 1):
            self._note_once("one calibration window: no other is left to judge the training by")
        elif judged_on == 1:
            self._note_once(one_is_held_out(windows))
        return windows_apart(windows, judged_on)

    def _zeros_that_were_there(self) -> dict[str, Tensor]:
        """Name in the stage's module -> mask, of each of its layers that had zeros before."""
        block, masks = self.block, {}
        for layer in block.every_layer(self.stage.module):
            gone = [block.gone.get(piece.name) for piece in layer.split()]
            if any(g is not None for g in gone):
                shape, device = layer.shape[layer.stacked :], block.run.blocks.device
                none = torch.zeros(shape, dtype=torch.bool, device=device)
                whole = [none if g is None else g for g in gone]
                name = block.relative(layer).removeprefix(self.stage.name)
                masks[name] = ~(torch.stack(whole) if layer.stacked else whole[0])
        return masks

    def _note(self, notes: list[str], finished: Finished) -> None:
        """What every block would say is said once, by the first that has to."""
        block = self.block
        far = finished.far(block.run.method)
        name = block.run.blocks.names[block.index]
        for note in (*notes, *([f"{far} (first in {name})"] if far else ())):
            self._note_once(note)

    def _note_once(self, note: str) -> None:
        """Keep a sentence, unless it was said before with other numbers."""
        if not any(note.partition(" by ")[0] in earlier for earlier in self.block.run.notes):
            self.block.note(note)

    def _method(self) -> Method:
        """The method with this stage's share of the budget, for layers by their names inside."""
        layers: list[Layer] = [
            dataclasses.replace(x, name=self.inside[x.name]) for x in self.stage.layers
        ]
        counts = {self.inside[n]: self.block.counts[n] for n in self.inside}
        return for_block(self.block.run.method, counts, layers)

    def _closures(self, batch: Tensor, sparsifier: Sparsifier) -> list[Callable[[], Tensor]]:
        """The step's losses, one per micro-batch; each process takes its part of the batch."""
        mine, weight = share(batch)
        split = mine.split(self.block.run.config.micro_batch)
        return [self._loss_of(part, len(part) * len(split) * weight, sparsifier) for part in split]

    def _loss_of(
        self, windows: Tensor, weight: float, sparsifier: Sparsifier
    ) -> Callable[[], Tensor]:
        device = self.block.run.blocks.device
        x = self.stage.inputs.tensor[windows].to(device)
        y = self.targets.tensor[windows].to(device)
        low = self.config.precision == "bfloat16"

        def closure() -> Tensor:
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                outputs = self.stage.forward(x, sparsifier.model)
            loss = sparsifier.loss(
                outputs=outputs,
                inputs=x,
                targets=y,
                forward=lambda module, inputs: self.stage.forward(inputs, module),
            )
            return loss * weight

        return closure


def parallel(module: nn.Module) -> nn.Module:
    """The module as all processes train it together."""
    if ranks.world() == 1:
        return module
    from torch.nn.parallel import DistributedDataParallel

    # of a mixture's experts some may get no token in a step
    return DistributedDataParallel(module, find_unused_parameters=True)


def __getattr__(name: str) -> object:
    """The former name of `ReconstructionConfig`."""
    if name != "FitConfig":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        "FitConfig is called ReconstructionConfig now (steppe.engine.blockwise.config)",
        DeprecationWarning,
        stacklevel=2,
    )
    return ReconstructionConfig
