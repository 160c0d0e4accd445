"""Sparse training inside Lightning's Trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from steppe.callbacks.checkpointed import load_run_state, plain_state_dict, run_state
from steppe.core.errors import SteppeError
from steppe.core.optional_import import require
from steppe.core.protocols import Coupling
from steppe.engine.step.finished import Finished
from steppe.engine.step.options import StepOptions
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.sparsify import sparsify
from steppe.method import Method


class _LightningSparsifier:
    """Trains a LightningModule sparsely, as a loop of one's own would.

    With automatic optimisation nothing in the module changes: a step's batches are kept until the
    last of ``accumulate_grad_batches`` has come, then ``training_step`` runs for each of them, a
    second time where the method perturbs (what it logs then is left out). With manual
    optimisation the module finds the sparsifier as ``self.sparsifier`` and calls
    ``self.sparsifier.step(closure)``.

    Args:
        method: e.g. ``steppe.methods.safe(sparsity=0.5)``.
        include, exclude, options: as those of `steppe.sparsify`.
        total_steps, steps_per_epoch: optimiser steps. Left out, Lightning is asked; it cannot
            know them with manual optimisation that gathers batches.

    Raises:
        SteppeError: the run does what a step of ours cannot do inside it.

    Example:
        The page "In a Trainer" of the documentation shows whole scripts::

            sparse = steppe.callbacks.LightningSparsifier(steppe.methods.safe(sparsity=0.5))
            lightning.Trainer(callbacks=[sparse], max_epochs=3).fit(module, loader)
    """

    def __init__(
        self,
        method: Method,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        options: StepOptions | None = None,
        total_steps: int | None = None,
        steps_per_epoch: int | None = None,
    ) -> None:
        self.method = method
        self._total_steps, self._steps_per_epoch = total_steps, steps_per_epoch
        self.sparsifier: Sparsifier | None = None
        self.finished: Finished | None = None
        self._include, self._exclude = include, exclude
        self._options = options or StepOptions()
        self._closures: list[Callable[[], Any]] = []
        self._due = False
        self._saved: dict[str, Any] | None = None
        self._undo: list[Callable[[], None]] = []

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Take part when the optimisers are made, before anything is restored into them."""
        if stage != "fit":
            return
        if self.sparsifier is not None:
            raise SteppeError(
                "a LightningSparsifier serves one run",
                got="a second fit()",
                way_out="make another one",
            )
        _check(trainer, pl_module)
        configure = pl_module.configure_optimizers
        self._instead(
            pl_module,
            "configure_optimizers",
            lambda: self._sparsify(trainer, pl_module, configure()),
        )

    def _instead(self, owner: Any, name: str, value: Any) -> None:
        """Another attribute for this one object, until the run is over."""
        setattr(owner, name, value)
        self._undo.append(lambda: delattr(owner, name))

    def _restore(self) -> None:
        while self._undo:
            self._undo.pop()()

    def _sparsify(self, trainer: Any, pl_module: Any, configured: Any) -> Any:
        coupling, automatic = self.method.coupling, pl_module.automatic_optimization
        assert isinstance(coupling, Coupling)
        if trainer.strategy.model is not pl_module and coupling.parametrization is not None:
            raise SteppeError(
                f"coupling {coupling.name} changes the parameters before the model is wrapped",
                got="Lightning's DDP, which wraps it before it makes the optimizers",
                way_out="one process, transformers' Trainer, or a loop of your own",
            )
        optimizers = _optimizers(configured)
        options = self._options
        if automatic:
            # Lightning divides each batch's loss by accumulate_grad_batches, also where an
            # epoch's last step has fewer batches
            options = replace(options, micro_batches="sum")
        self.sparsifier = sparsify(
            pl_module,
            optimizers[0] if len(optimizers) == 1 else optimizers,
            self.method,
            self._total_steps or _total_steps(trainer),
            include=self._include,
            exclude=self._exclude,
            clip_grad_norm=trainer.gradient_clip_val or None,
            steps_per_epoch=self._steps_per_epoch or _steps_per_epoch(trainer),
            options=options,
        )
        self._undo.append(plain_state_dict(pl_module, self.sparsifier).remove)
        if automatic:
            plain = trainer.strategy.training_step
            self._instead(
                trainer.strategy, "training_step", functools.partial(self._step, trainer, plain)
            )
            self._instead(pl_module, "backward", lambda loss, *given, **named: None)
            self._instead(pl_module, "optimizer_step", self._last_batch)
        else:
            self._instead(pl_module, "sparsifier", self.sparsifier)
            _count_steps(trainer, optimizers[0])
        return configured

    def _last_batch(self, epoch: int, index: int, optimizer: Any, closure: Any = None) -> None:
        """In place of ``optimizer_step``, which Lightning calls for a step's last batch."""
        self._due = True
        closure()  # it calls the strategy's training_step, which makes the step

    def _step(self, trainer: Any, plain: Callable[..., Any], *given: Any) -> Any:
        """In place of the strategy's ``training_step``: keep a batch; step with the last."""
        assert self.sparsifier is not None
        module, share = trainer.lightning_module, 1.0 / trainer.accumulate_grad_batches
        outputs: list[Any] = []

        def closure() -> Any:
            with _silent(module) if outputs else nullcontext():
                output = plain(*given)
            outputs.append(output)
            return _loss(output, share)

        self._closures.append(closure)
        if not self._due:
            return torch.zeros((), device=module.device)
        closures, self._closures, self._due = self._closures, [], False
        self.sparsifier.model = trainer.strategy.model
        loss = self.sparsifier.step(*closures) / share  # Lightning multiplies with it again
        first = outputs[0]
        return {**first, "loss": loss} if isinstance(first, Mapping) else loss

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """In a resumed run, go on from the checkpoint's state."""
        assert self.sparsifier is not None, "Lightning made no optimizer"
        if self._saved is not None:
            load_run_state(pl_module, self.sparsifier, self._saved)
            self._saved = None
        elif trainer.global_step:
            raise SteppeError(
                "a sparse run goes on from a checkpoint of a sparse run",
                got="a checkpoint without the state of a LightningSparsifier",
                way_out="resume from a checkpoint that was saved with it, or begin anew",
            )

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """The last projection; the module is an ordinary one again."""
        assert self.sparsifier is not None, "Lightning made no optimizer"
        self.finished = self.sparsifier.finish()
        self._restore()

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Leave nothing of ours in the module."""
        self._restore()

    def state_dict(self) -> dict[str, Any]:
        """For Lightning's checkpoints: plain values and tensors."""
        if self.sparsifier is None:
            return {}
        return run_state(self.sparsifier.model, self.sparsifier)

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Kept until the optimisers are there."""
        self._saved = state_dict or None


def _loss(output: Any, share: float) -> Any:
    """A batch's part of the step's loss, and its accuracy where training_step gives one."""
    if not isinstance(output, Mapping):
        return output * share if isinstance(output, Tensor) else output
    loss = output["loss"] * share
    return (loss, output["accuracy"]) if "accuracy" in output else loss


@contextmanager
def _silent(module: Any) -> Iterator[None]:
    """What a second pass logs is of the perturbed network."""
    module.log = lambda *given, **named: None
    try:
        yield
    finally:
        del module.log


def _optimizers(configured: Any) -> list[Optimizer]:
    """The optimisers in what ``configure_optimizers`` returned, in any of its forms."""
    if isinstance(configured, Optimizer):
        return [configured]
    if isinstance(configured, Mapping):
        return [configured["optimizer"]]
    if isinstance(configured, tuple) and len(configured) == 2 and isinstance(configured[0], list):
        configured = configured[0]
    if isinstance(configured, list | tuple) and configured:
        return [o["optimizer"] if isinstance(o, Mapping) else o for o in configured]
    raise SteppeError(
        "a sparse run needs configure_optimizers",
        got=f"{type(configured).__name__} from it",
        way_out="return an optimizer of torch.optim",
    )


def _total_steps(trainer: Any) -> int:
    total = trainer.estimated_stepping_batches
    if total in (float("inf"), -1):
        raise SteppeError(
            "the schedules of a sparse run stretch over a known number of steps",
            got="a Trainer that does not know its end",
            way_out="Trainer(max_steps=...), or total_steps=...",
        )
    return int(total)


def _steps_per_epoch(trainer: Any) -> int | None:
    batches = trainer.num_training_batches
    return None if batches == float("inf") else -(-batches // trainer.accumulate_grad_batches)


def _count_steps(trainer: Any, optimizer: Optimizer) -> None:
    """With manual optimisation Lightning counts the steps of its own wrapper of the optimiser."""

    def count(*given: Any) -> None:
        for wrapper in trainer.strategy._lightning_optimizers:
            if wrapper.optimizer is optimizer:
                wrapper._on_before_step()
                wrapper._on_after_step()

    optimizer.register_step_post_hook(count)


_STRATEGIES = {"SingleDeviceStrategy", "DDPStrategy"}
# What a module may do around an optimiser step that Lightning makes, and we make in its place.
_STEP_HOOKS = (
    "backward",
    "configure_gradient_clipping",
    "on_after_backward",
    "on_before_backward",
    "on_before_optimizer_step",
    "on_before_zero_grad",
    "optimizer_step",
    "optimizer_zero_grad",
)


def _own_hooks(module: Any) -> list[str]:
    """The hooks of a step that a module's class overrides."""
    base = next(c for c in type(module).__mro__ if c.__name__ == "LightningModule")
    return [h for h in _STEP_HOOKS if getattr(type(module), h) is not getattr(base, h)]


def _check(trainer: Any, module: Any) -> None:
    strategy, manual = trainer.strategy, not module.automatic_optimization
    refused = {
        type(strategy).__name__: not _STRATEGIES & {c.__name__ for c in type(strategy).__mro__},
        "fp16 with a gradient scaler": getattr(trainer.precision_plugin, "scaler", None)
        is not None,
        "gradient clipping by value": trainer.gradient_clip_algorithm == "value",
        "manual optimization in several processes": manual and trainer.world_size > 1,
    }
    if not manual and (own := _own_hooks(module)):
        raise SteppeError(
            "the sparsifier makes the step in Lightning's place, whole",
            got=f"a module with its own {', '.join(own)}",
            consequence="they would not be called",
            way_out="a scheduler, gradient_clip_val, or manual optimization",
        )
    ways = {
        "fp16 with a gradient scaler": 'precision="bf16-mixed"',
        "gradient clipping by value": 'gradient_clip_algorithm="norm"',
        "manual optimization in several processes": "automatic optimization",
    }
    for what, used in refused.items():
        if used:
            raise SteppeError(
                "Lightning steps sparsely on one device or with DDP, in float32 or bfloat16",
                got=what,
                way_out=ways.get(what, 'strategy="auto" or "ddp"'),
            )


@functools.cache
def lightning_sparsifier() -> type:
    """`LightningSparsifier`, built on demand: it needs lightning, slow to import and optional."""
    lightning = require(
        "lightning.pytorch", install="'steppe[lightning]'", purpose="LightningSparsifier"
    )
    body = {"__doc__": _LightningSparsifier.__doc__}
    return type("LightningSparsifier", (_LightningSparsifier, lightning.Callback), body)
