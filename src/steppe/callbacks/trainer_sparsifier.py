"""Sparse training inside transformers' Trainer."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.callbacks.checkpointed import load_run_state, plain_state_dict, run_state
from steppe.core.errors import SteppeError
from steppe.core.mask import pack
from steppe.core.optional_import import require
from steppe.core.protocols import Coupling
from steppe.core.serialization import load_state, save_state, write_tensors
from steppe.engine.mask_keeper import MASKS
from steppe.engine.step.finished import Finished
from steppe.engine.step.options import StepOptions
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.sparsify import sparsify
from steppe.method import Method

STATE = "sparsifier.safetensors"
"""The file of a checkpoint that holds our state."""

Accuracy = Callable[[Any, Any], Tensor]


class _TrainerSparsifier:
    """Trains the model of transformers' Trainer sparsely, as a loop of one's own would.

    A step's micro-batches are kept until the last has come; then the whole step is made at once,
    perturbation and clipping (``max_grad_norm``) included. The loss is what the Trainer, or a class
    made from it, computes.

    Args:
        method: e.g. ``steppe.methods.safe(sparsity=0.5)``.
        include, exclude, options: as those of `steppe.sparsify`.
        accuracy: (inputs, outputs of the model) -> fraction of right answers, for methods that
            watch it (pilot).
        checkpoint: the folder a resumed run starts from, when it is not
            ``output_dir/checkpoint-STEP``.

    Raises:
        SteppeError: the Trainer does what a step of ours cannot do inside it.

    Example:
        The page "In a Trainer" of the documentation shows whole scripts::

            sparse = steppe.callbacks.TrainerSparsifier(method).attach(trainer)
            trainer.train()
            trainer.save_model("sparse/")
    """

    def __init__(
        self,
        method: Method,
        *,
        include: Sequence[str] = (),
        exclude: Sequence[str] = (),
        options: StepOptions | None = None,
        accuracy: Accuracy | None = None,
        checkpoint: Path | str | None = None,
    ) -> None:
        self.method, self._checkpoint = method, checkpoint
        self.sparsifier: Sparsifier | None = None
        self.finished: Finished | None = None
        self._include, self._exclude, self._accuracy = include, exclude, accuracy
        # the Trainer's losses are parts of the step's already
        self._options = replace(options or StepOptions(), micro_batches="sum")
        self._closures: list[Callable[[], Any]] = []

    def attach(self, trainer: Any) -> Any:
        """Let a Trainer step sparsely.

        Args:
            trainer: that has not trained yet.

        Returns:
            This object, a callback of the Trainer from now on.

        Raises:
            SteppeError: the Trainer does what a step of ours cannot do inside it.
        """
        _check(trainer, self.method, self._accuracy)
        self._trainer = trainer
        self._create, self._plain_step = trainer.create_optimizer, trainer.training_step
        trainer.create_optimizer, trainer.training_step = self._create_optimizer, self._step
        trainer.add_callback(self)
        return self

    def _create_optimizer(self, *given: Any, **named: Any) -> Any:
        """Before the model is wrapped and a scheduler made, which must see what is trained."""
        optimizer = self._create(*given, **named)
        trainer = self._trainer
        args, total = trainer.args, trainer.state.max_steps
        self.sparsifier = sparsify(
            trainer.model,
            optimizer,
            self.method,
            total,
            include=self._include,
            exclude=self._exclude,
            clip_grad_norm=args.max_grad_norm or None,
            steps_per_epoch=_steps_per_epoch(trainer),
            options=self._options,
        )
        self._plain = plain_state_dict(trainer.model, self.sparsifier)
        return optimizer

    def _step(self, model: Any, inputs: Any, *given: Any, **named: Any) -> Tensor:
        """In place of ``training_step``: keep a micro-batch; with the last of them, step."""
        assert self.sparsifier is not None, "the Trainer made no optimizer"
        accelerator = self._trainer.accelerator

        def closure() -> Any:
            with _captured(accelerator) as losses, self._outputs() as outputs:
                self._plain_step(model, dict(inputs), *given, **named)
            if not losses:
                raise SteppeError(
                    "training_step gives its loss to accelerator.backward",
                    got=f"{type(self._trainer).__name__}.training_step, which does not",
                    way_out="self.accelerator.backward(loss) in place of loss.backward()",
                )
            loss = sum(losses[1:], losses[0])
            if self._accuracy is None:
                return loss
            return loss, self._accuracy(inputs, outputs[0])

        self._closures.append(closure)
        if not accelerator.gradient_state.sync_gradients:
            return torch.zeros((), device=self._trainer.args.device)
        closures, self._closures = self._closures, []
        self.sparsifier.model = model
        return self.sparsifier.step(*closures)

    @contextmanager
    def _outputs(self) -> Iterator[list[Any]]:
        outputs: list[Any] = []
        hook = self._trainer.model.register_forward_hook(lambda _m, _i, out: outputs.append(out))
        try:
            yield outputs
        finally:
            hook.remove()

    def on_train_begin(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """In a resumed run, go on from the checkpoint's state."""
        assert self.sparsifier is not None, "the Trainer made no optimizer"
        if not state.global_step:
            return
        folder = Path(args.output_dir) / f"checkpoint-{state.global_step}"
        path = Path(self._checkpoint or folder) / STATE
        if not path.is_file():
            raise SteppeError(
                "a sparse run goes on from a checkpoint of a sparse run",
                got=f"{path.parent}, which holds no {STATE}",
                way_out="resume from a checkpoint that TrainerSparsifier wrote, or name it: "
                "TrainerSparsifier(method, checkpoint=...)",
            )
        load_run_state(self._trainer.model, self.sparsifier, load_state(path))

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The step is made; accelerate's optimizer does nothing where it is told to accumulate."""
        self._trainer.accelerator.gradient_state._set_sync_gradients(False)

    def on_optimizer_step(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """What the Trainer said before `on_pre_optimizer_step`."""
        self._trainer.accelerator.gradient_state._set_sync_gradients(True)

    def on_save(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """Put our state beside the checkpoint's weights."""
        assert self.sparsifier is not None, "the Trainer made no optimizer"
        if state.is_world_process_zero:
            path = Path(args.output_dir) / f"checkpoint-{state.global_step}" / STATE
            save_state(path, run_state(self._trainer.model, self.sparsifier))

    def on_train_end(self, args: Any, state: Any, control: Any, **given: Any) -> None:
        """The last projection, and the masks: ``masks.safetensors`` in the output folder."""
        assert self.sparsifier is not None, "the Trainer made no optimizer"
        self.finished = self.sparsifier.finish()
        self._plain.remove()
        if state.is_world_process_zero:
            masks = {name: mask.cpu() for name, mask in self.finished.masks.items()}
            path = Path(args.output_dir) / MASKS
            write_tensors(path, pack(masks), {"packing": "numpy.packbits"})


def _steps_per_epoch(trainer: Any) -> int | None:
    """Optimiser steps; None where the data have no length."""
    try:
        batches: int = len(trainer.get_train_dataloader())
    except TypeError:
        return None
    gathered: int = trainer.args.gradient_accumulation_steps
    return -(-batches // gathered)


@contextmanager
def _captured(accelerator: Any) -> Iterator[list[Tensor]]:
    """What is given to ``accelerator.backward``; the gradient is left to the step."""
    losses: list[Tensor] = []
    accelerator.backward = lambda loss, **kwargs: losses.append(loss)
    try:
        yield losses
    finally:
        del accelerator.backward  # the class's is there again


def _check(trainer: Any, method: Method, accuracy: Accuracy | None) -> None:
    args = trainer.args
    refused = {
        "DeepSpeed": trainer.is_deepspeed_enabled,
        "FSDP": trainer.is_fsdp_enabled,
        "fp16 with a gradient scaler": trainer.accelerator.scaler is not None,
        "load_best_model_at_end": args.load_best_model_at_end,
        "several GPUs in one process (DataParallel)": args.n_gpu > 1,
    }
    ways = {
        "load_best_model_at_end": "load_best_model_at_end=False: the sparse model is that of the "
        "run's end",
        "fp16 with a gradient scaler": "bf16=True",
    }
    for what, used in refused.items():
        if used:
            raise SteppeError(
                "a Trainer steps sparsely with plain tensors, in one process for each device",
                got=what,
                way_out=ways.get(what, "DistributedDataParallel, or a loop of your own"),
            )
    coupling = method.coupling
    if isinstance(coupling, Coupling) and coupling.watches == "accuracy" and accuracy is None:
        raise SteppeError(
            f"{method.name} watches the training accuracy",
            got="no accuracy",
            way_out="TrainerSparsifier(method, accuracy=lambda inputs, outputs: "
            "(outputs.logits.argmax(-1) == inputs['labels']).float().mean())",
        )


@functools.cache
def trainer_sparsifier() -> type:
    """`TrainerSparsifier`, built on demand: transformers is slow to import, and optional."""
    transformers = require("transformers", install="'steppe[trainer]'", purpose="TrainerSparsifier")
    base = transformers.TrainerCallback
    return type(
        "TrainerSparsifier", (_TrainerSparsifier, base), {"__doc__": _TrainerSparsifier.__doc__}
    )
