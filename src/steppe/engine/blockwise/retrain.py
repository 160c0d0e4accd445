"""What a pruned block has left, trained to do what the dense block did, its zeros kept."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor, nn

from steppe.core.batch import Batch
from steppe.engine.blockwise.batches import batches, share
from steppe.engine.blockwise.context import BlockContext
from steppe.engine.blockwise.held_out import HeldOut, one_is_held_out, windows_apart
from steppe.engine.blockwise.reconstruct import parallel
from steppe.engine.blockwise.stages import Stage, behind, dense_targets, stages
from steppe.engine.blockwise.states import Activations
from steppe.engine.blockwise.trained import TRAINED
from steppe.engine.kept_zeros import Signs, masks_of
from steppe.engine.mask_keeper import MaskKeeper
from steppe.engine.optim import optimizer, options_of


@dataclasses.dataclass(frozen=True, kw_only=True)
class Retraining:
    """How a block of a pruned model is recovered; its masks are fixed.

    Stage after stage (as the method's objective says) is trained from the recovered model's
    hidden states towards those of the dense model. A stage whose error on windows that are held
    out is not lower afterwards keeps its weights.

    Args:
        train: what is trained, see `steppe.engine.blockwise.trained`.
        rank: of adapters.
        held_out: windows that the training does not see.

    Source: Roux et al. 2025, arXiv 2510.14444.
    """

    train: str = "weights"
    rank: int = 8
    held_out: int = 1

    def __call__(self, block: BlockContext) -> tuple[dict[str, Tensor], dict[str, float]]:
        """Train a block in place.

        Returns:
            Layer name -> mask; no solver's seconds.
        """
        run, signs = block.run, Signs(block.module)
        assert run.dense is not None, "a pruned model is led back to a dense one"
        given, targets = run.dense.states.of(block.index), None
        low = run.config.reconstruction.precision == "bfloat16"
        with block.timed("prune"), run.blocks.fitting(low):
            for stage in stages(block):
                if targets is not None:  # the dense model goes on from its own stream
                    own = targets.tensor
                    given = behind(block, given, own.__getitem__, "dense-stage.bin")
                targets = dense_targets(block, stage, block.dense, given)
                self._train(block, stage, targets)
        signs.restore(block.module)
        return {layer.name: block.alive(layer) for layer in block.layers}, {}

    def _train(self, block: BlockContext, stage: Stage, targets: Activations) -> None:
        config, seed = block.run.config.reconstruction, block.run.config.seed
        trained = TRAINED[self.train](stage, self.rank, seed * 1_000_003 + block.index)
        if not trained.parameters:
            block.note(f"{stage.title} of block {block.index} has no {self.train} to train")
            return
        windows, judged_on = windows_apart(len(targets), self.held_out)
        held_out = HeldOut(block, stage, targets, judged_on) if len(judged_on) else None
        said = one_is_held_out(len(targets))
        if len(judged_on) == 1 and said not in block.run.notes:
            block.note(said)
        for parameter in trained.parameters:
            parameter.requires_grad_(True)
        options = {"betas": config.betas} if "betas" in options_of(config.optimizer) else {}
        optim = optimizer(config.optimizer, trained.parameters, config.lr, **options)
        if zeros := masks_of(stage.parameters()):
            MaskKeeper(stage.module, zeros).wrap(optim)
        module = parallel(trained.module)
        for batch, lr in batches(config, windows, seed):
            for group in optim.param_groups:
                group["lr"] = lr
            optim.zero_grad(set_to_none=True)
            self._backward(block, stage, targets, module, batch)
            optim.step()
        for parameter in trained.parameters:
            parameter.requires_grad_(False)
            parameter.grad = None
        trained.merge()
        if held_out is not None:
            held_out.better()

    def _backward(
        self,
        block: BlockContext,
        stage: Stage,
        targets: Activations,
        module: nn.Module,
        batch: Tensor,
    ) -> None:
        """Add up the gradients of this process's part of a batch."""
        run = block.run
        device, low = run.blocks.device, run.config.reconstruction.precision == "bfloat16"
        mine, weight = share(batch)
        for windows in mine.split(run.config.micro_batch):
            x = stage.inputs.tensor[windows].to(device)
            y = targets.tensor[windows].to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=low):
                outputs = stage.forward(x, module)
            loss = block.method.objective.loss(Batch(outputs=outputs, inputs=x, targets=y))
            (loss * (weight * len(windows))).backward()
