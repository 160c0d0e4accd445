"""How to train: what the engine is told beside model, data and method."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from torch import nn

from steppe.core.cost import Cost
from steppe.core.protocols import CandidateEvaluator
from steppe.engine.step.options import StepOptions
from steppe.engine.step.parameter_groups import ParameterGroup


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
    """

    epochs: int
    lr: float = 0.1
    optimizer: str = "sgd"
    optimizer_options: dict[str, Any] = field(default_factory=lambda: {"momentum": 0.9})
    optimizer_groups: tuple[ParameterGroup, ...] = ()
    lr_schedule: str = "cosine"
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
