"""How the blocks are walked and optimised."""

from __future__ import annotations

import dataclasses
from typing import Any

from steppe.core.errors import SteppeError


def option(default: Any, description: str) -> Any:
    """A field of a configuration, with what a command's help says of it."""
    return dataclasses.field(default=default, metadata={"description": description})


@dataclasses.dataclass(frozen=True, kw_only=True)
class ReconstructionConfig:
    """How a block is optimised to do what the dense one did.

    The SAFE authors' settings for language models are 30 epochs, 2 of them warming up, and a
    learning rate of 2e-4; ours take a third of the time for a lower perplexity (docs/results.md).

    Args:
        epochs: passes over the calibration windows.
        warmup_epochs: of them with a growing learning rate; it falls linearly to 0 afterwards.
        lr: peak learning rate.
        batch_size: windows per step, over all processes.
        optimizer: any of torch.optim.
        betas: of Adam.
        precision: float32, or bfloat16 for autocast around a float32 master copy.

    Raises:
        SteppeError: a value with which nothing can be optimised.

    Example:
        >>> ReconstructionConfig(epochs=2, warmup_epochs=0).batch_size
        8
    """

    epochs: int = option(10, "SAFE, ADMM: passes per block")
    warmup_epochs: float = option(1, "of them warming up")
    lr: float = option(1e-3, "SAFE, ADMM: peak learning rate")
    batch_size: int = option(8, "SAFE, ADMM: windows per step")
    optimizer: str = option("adam", "any of torch.optim")
    betas: tuple[float, float] = option((0.9, 0.95), "of Adam")
    precision: str = option("float32", "float32, or bfloat16 (autocast)")

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch_size < 1 or not self.lr > 0:
            raise SteppeError(
                "a block is optimised for at least one epoch, with batches and a learning rate",
                got=f"epochs {self.epochs}, batch size {self.batch_size}, lr {self.lr}",
            )
        if not 0 <= self.warmup_epochs < self.epochs:
            raise SteppeError(
                "the warm-up must be shorter than the optimisation of a block",
                got=f"{self.warmup_epochs:g} of {self.epochs} epochs",
                way_out="fewer warm-up epochs (--warmup-epochs 0), or more epochs",
            )
        if self.precision not in ("float32", "bfloat16"):
            raise SteppeError("precision is float32 or bfloat16", got=repr(self.precision))


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockwiseConfig:
    """How the blocks are walked; what is done to a block is the method's.

    Args:
        seed: of the order of windows and of random scores.
        micro_batch: windows that go through a block together; bounds its working memory.
        measure: windows on which the layers' output errors are measured; 0 for none.
        reconstruction: how a block is optimised, for methods that do.
        regrow: whether weights that are zero before may become nonzero; else they stay zero, and
            count as pruned.
    """

    seed: int = 0
    micro_batch: int = 8
    measure: int = 8
    reconstruction: ReconstructionConfig = dataclasses.field(default_factory=ReconstructionConfig)
    regrow: bool = False

    def __post_init__(self) -> None:
        if self.micro_batch < 1 or self.measure < 0:
            raise SteppeError(
                "a micro-batch has at least one window, and what is measured none or more",
                got=f"--micro-batch {self.micro_batch} --measure {self.measure}",
                way_out="--micro-batch 8 --measure 8",
            )
