"""How to train: what the engine is told beside model, data and method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.protocols import CandidateEvaluator
from steppe.engine.optim import lr_factor
from steppe.engine.step.batchnorm import running_norms
from steppe.engine.step.options import StepOptions
from steppe.engine.step.parameter_groups import ParameterGroup
from steppe.engine.weight_average import WeightAverage


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How to train.

    Args:
        epochs: passes over the training batches.
        lr: peak learning rate.
        optimizer: any of ``torch.optim``, by name.
        optimizer_options: its further arguments (momentum, weight_decay, betas, ...).
        optimizer_groups: other options for some parameters, see `StepOptions`.
        lr_schedule: cosine, linear, step or constant.
        lr_steps: of step: epochs from which on the learning rate is ``lr`` times a factor; without
            them a tenth at a half and at three quarters.
        warmup_epochs: epochs of linear warm-up.
        clip_grad_norm: largest norm of the loss gradient.
        accumulate: micro-batches per optimiser step.
        mixed_precision: no, bf16 or fp16, through accelerate.
        channels_last: memory format of images and weights; faster for convolutions on most
            processors and GPUs.
        bn_batches: training batches that re-estimate batch-norm statistics after the last
            projection; 0 leaves them.
        checkpoint_steps: also checkpoint within an epoch, every so many steps.
        sync: global or local (m-sharpness) perturbation under several processes.
        trackers: accelerate trackers (tensorboard, wandb, ...) that also get the metrics.
        eval_every: epochs between evaluations; 0 only at the end.
        ema: decay of a running mean of the weights, which takes their place before the last
            projection, with running statistics of its own from ``bn_batches``; None: none.
    """

    epochs: int
    lr: float = 0.1
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    optimizer_groups: tuple[ParameterGroup, ...] = ()
    lr_schedule: str = "cosine"
    lr_steps: tuple[tuple[float, float], ...] = ()
    warmup_epochs: float = 0.0
    clip_grad_norm: float | None = None
    accumulate: int = 1
    mixed_precision: Literal["no", "bf16", "fp16"] = "no"
    channels_last: bool = False
    bn_batches: int = 79
    checkpoint_steps: int | None = None
    sync: Literal["global", "local"] = "global"
    trackers: tuple[str, ...] = ()
    eval_every: int = 1
    ema: float | None = None

    def steps_per_epoch(self, batches: int) -> int:
        """Optimiser steps.

        Args:
            batches: of an epoch.

        Raises:
            SteppeError: there is none.
        """
        steps = batches // self.accumulate
        if steps < 1 or self.epochs < 1:
            raise SteppeError(
                "training needs at least one epoch of at least one step",
                got=f"{self.epochs} epochs of {steps} steps",
                way_out="--epochs 1 or more"
                if self.epochs < 1
                else "a smaller batch size or accumulate, or more data",
            )
        return steps

    def average_of(self, model: nn.Module, *, whole: bool) -> WeightAverage | None:
        """The running mean of the weights, if one is asked for.

        Args:
            model: as its optimiser sees it.
            whole: whether the run is one training; a method may rewind it.

        Raises:
            SteppeError: the method rewinds, so the weights belong to several trainings; batch norms
                would keep the statistics of other weights.
        """
        if self.ema is None:
            return None
        if not whole:
            raise SteppeError(
                "a mean of the weights is that of one training",
                got="train.ema with a method that rewinds",
                way_out="train.ema null",
            )
        if not self.bn_batches and running_norms(model):
            raise SteppeError(
                "running statistics of norms are estimated for the mean of the weights",
                got="train.ema with bn_batches 0",
                consequence="they would be those of other weights",
                way_out="train.bn_batches 79, or train.ema null",
            )
        return WeightAverage(model, self.ema)

    def learning_rate(self, steps_per_epoch: int, training: int) -> Callable[[float], float]:
        """Learning rate over its base at each point of a training, in [0, 1].

        Args:
            steps_per_epoch: optimiser steps.
            training: steps of one training, where a method rewinds.
        """
        steps = [(epoch * steps_per_epoch / training, times) for epoch, times in self.lr_steps]
        return lr_factor(self.lr_schedule, self.warmup_epochs * steps_per_epoch / training, steps)

    def of_steps(
        self,
        cost: Cost | None,
        candidates: CandidateEvaluator | None,
        reference: nn.Module | None = None,
    ) -> StepOptions:
        """What each step must know of it."""
        return StepOptions(
            sync=self.sync,
            cost=cost,
            evaluate_candidate=candidates,
            optimizer_groups=self.optimizer_groups,
            reference=reference,
        )
