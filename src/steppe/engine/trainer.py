"""Training on accelerate: one process or many, resumed by default, one folder at the end."""

from __future__ import annotations

import math
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from steppe.core.cost import Cost
from steppe.core.courtesy import courtesy
from steppe.core.errors import Diverged, SteppeError
from steppe.core.group import Group
from steppe.core.protocols import CandidateEvaluator
from steppe.core.split import whole_state
from steppe.engine.accelerator import make_accelerator as make_accelerator
from steppe.engine.checkpoints import Checkpoints
from steppe.engine.early_stopping import EarlyStopping
from steppe.engine.optim import optimizers
from steppe.engine.progress import TrainingProgress, peak_memory, say_in_logs
from steppe.engine.run_folder import RunFolder
from steppe.engine.shared_buffers import as_first, new_statistics
from steppe.engine.step.finished import Finished, gentler
from steppe.engine.step.gradient_passes import Closure
from steppe.engine.step.sparsifier import Sparsifier
from steppe.engine.step.sparsify import sparsify
from steppe.engine.train_config import TrainConfig as TrainConfig
from steppe.engine.training_task import Classification, Pace, TrainingTask
from steppe.engine.weight_average import WeightAverage
from steppe.method import Method

Evaluate = Callable[[nn.Module], dict[str, float]]


class Batches(Protocol):
    """Batches that are a pure function of epoch and position, so that a run can resume."""

    def __len__(self) -> int: ...
    def epoch(self, number: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]: ...


@dataclass
class Outcome:
    """What training gave.

    Args:
        finished: masks, zeros, distance of the last projection.
        metrics: one row per epoch.
        before: evaluation before the last projection.
        after: evaluation after it and the batch norm's; either is empty where it failed.
        seconds: wall-clock time of this process; a resumed run counts what came before.
        peak_memory: bytes (GPU: allocated by torch; CPU: the process's resident peak).
        notes: what the user should know.
        coupling: what the coupling shows of its state at the end.
    """

    finished: Finished
    metrics: list[dict[str, Any]]
    before: dict[str, float]
    after: dict[str, float]
    seconds: float
    peak_memory: int
    notes: list[str]
    coupling: dict[str, float]


class Trainer:
    """Trains a model by a method and leaves it exactly sparse.

    Every epoch ends with a checkpoint; a run that was killed goes on from the last one and
    ends with the same weights, bit for bit, as one that was not.

    Args:
        model: the network, on any device.
        batches: training batches, see `Batches`; their number times epochs is the run.
        evaluate: model -> metrics; called with the model in eval mode, without gradient.
        method: what to prune and how.
        config: how to train.
        run: where everything goes; None keeps nothing.
        include, exclude: patterns of what is prunable.
        groups, cost, evaluate_candidate: coupled channels, what sparsity counts of them, and how
            good the network is with some of them, see `sparsify`.
        accelerator: from `make_accelerator`.
        task: how the network is run and what its loss is; classification if none is given.
        reference: a teacher, where the objective has one that is not the model's own start.
        stopping: ends the training early, and takes it back to its best epoch; for methods that
            prune nothing on the way.
        quiet: no progress bar.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: Batches,
        evaluate: Evaluate,
        method: Method,
        config: TrainConfig,
        accelerator: Accelerator,
        *,
        run: RunFolder | None = None,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        groups: Sequence[Group] = (),
        cost: Cost | None = None,
        evaluate_candidate: CandidateEvaluator | None = None,
        task: TrainingTask | None = None,
        reference: nn.Module | None = None,
        stopping: EarlyStopping | None = None,
        quiet: bool = False,
    ) -> None:
        self.batches, self.config, self.run, self.stopping = batches, config, run, stopping
        self.task: TrainingTask = task or Classification()
        self.accelerator, self._evaluate, self.quiet = accelerator, evaluate, quiet
        self.steps_per_epoch = config.steps_per_epoch(len(batches))
        self.total = self.steps_per_epoch * config.epochs
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        self.plain = model
        self.optimizers, said = optimizers(
            config.optimizer, model.parameters(), config.lr, **config.optimizer_options
        )
        self.optimizer = self.optimizers[0]
        # before the model is wrapped, as parts of weights must be seen by what wraps it
        self.sparsifier: Sparsifier = sparsify(
            model,
            self.optimizers,
            method,
            self.total,
            include=include,
            exclude=exclude,
            clip_grad_norm=config.clip_grad_norm,
            scaler=accelerator.scaler,
            steps_per_epoch=self.steps_per_epoch,
            groups=groups,
            options=config.of_steps(cost, evaluate_candidate, reference),
        )
        self.sparsifier.notes += said
        self.checkpoints = Checkpoints(run, model)
        # what is split meets the other processes by itself
        wrapped = model if self.checkpoints.split else accelerator.prepare_model(model)
        self.model = self.sparsifier.model = wrapped
        training = self.sparsifier.clock[1]
        self.factor = config.learning_rate(self.steps_per_epoch, training)
        self.average = config.average_of(model, whole=training == self.total)
        self.loss = self.task.loss
        self.pace = Pace(self.task.unit, streams=getattr(batches, "streams", False))
        self._metrics: list[dict[str, Any]] = []
        self._epoch = self._start = 0
        self._loss_sum = torch.zeros((), device=accelerator.device)
        self._earlier = 0.0

    @property
    def _beside(self) -> dict[str, EarlyStopping | WeightAverage]:
        every = {"stopping": self.stopping, "average": self.average}
        return {name: one for name, one in every.items() if one is not None}

    def fit(self) -> Outcome:
        """Train to the end (from the last checkpoint if there is one), project, evaluate.

        Raises:
            Diverged: the loss became NaN or infinite; the last good checkpoint is kept.
            SteppeError: another run is at work in the same folder.
        """
        with self.checkpoints.alone():
            return self._fitted(time.monotonic())

    def _fitted(self, begun: float) -> Outcome:
        self._resume()
        if self.stopping is not None and not self.stopping.curve:
            self._look()
        self.accelerator.init_trackers("steppe", {}) if self.config.trackers else None
        wanted = self.accelerator.is_main_process and not self.quiet
        with TrainingProgress(wanted, self.total) as progress:
            while self._epoch < self.config.epochs and not (self.stopping and self.stopping.over):
                self._one_epoch(progress, begun)
        self.model.zero_grad()  # their memory is there for the last projection
        if self.stopping is not None:
            self.stopping.restore(self.plain)
        if self.average is not None:
            self.average.store()
            self._reestimate()  # or its figures would be those of the raw weights' statistics
        before = self._evaluated(f"the {self.task.quality} before the last projection")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the record says what the cut cost, in accuracy
            finished = self.sparsifier.finish()
        self._share_buffers()
        self._reestimate()
        self.task.settle(self.plain)
        self.written = whole_state(self.plain, self.accelerator.is_main_process)
        if self.run is not None and self.accelerator.is_main_process:
            self.run.save_weights(self.written, finished.masks)
        # from here on nothing can cost the run
        after = self._evaluated(f"the {self.task.quality}")
        with courtesy("the last entry of the trackers"):
            self.accelerator.end_training() if self.config.trackers else None
        seconds = self._earlier + time.monotonic() - begun
        shown = self.sparsifier.coupling.shown(self.sparsifier.state)
        notes = list(dict.fromkeys(self.sparsifier.notes))
        return Outcome(finished, self._metrics, before, after, seconds, peak_memory(), notes, shown)

    def evaluate(self) -> dict[str, float]:
        """The evaluation of the model as this process holds it; nothing is shared before.

        Where ``evaluate`` measures a share of the data in each process, all of them call this.
        """
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        training = model.training
        model.eval()
        try:
            with torch.no_grad():
                return self._evaluate(model)
        finally:
            model.train(training)

    def _share_buffers(self) -> None:
        """One network for all processes between two steps: to be measured, and to be kept.

        Of a model that is split each process keeps its own buffers.
        """
        if not self.checkpoints.split:
            as_first(self.plain)

    def _evaluated(self, what: str) -> dict[str, float]:
        """The evaluation, or nothing where it fails: it is never worth the training."""
        self._share_buffers()  # all processes come by here; a second try is each one's own
        with courtesy(what):
            return self.evaluate()
        return {}

    def _one_epoch(self, progress: TrainingProgress, begun: float) -> None:
        self.model.train()
        micro = self.config.accumulate
        stream: Iterator[tuple[Tensor, Tensor]] = iter(())
        expected = -1
        for index in range(self._start, self.steps_per_epoch):
            # where a run is rewound, learning rate and data begin anew
            done, length = self.sparsifier.clock
            if done != expected or done % self.steps_per_epoch == 0:
                epoch, position = divmod(done, self.steps_per_epoch)
                stream = self.batches.epoch(epoch, position * micro)
            expected = done + 1
            with self.pace.waiting():
                pairs = [next(stream) for _ in range(micro)]
            rate = self.factor(done / length)
            for group in (g for one in self.optimizers for g in one.param_groups):
                group["lr"] = group.get("initial_lr", self.config.lr) * rate
            self._loss_sum += self._step([self._closure(x, y) for x, y in pairs])
            if self.average is not None:
                self.average.update()
            seen = sum(self.task.count(x) for x, _ in pairs)
            self.pace.saw(seen * self.accelerator.num_processes, 1)
            last = index == self.steps_per_epoch - 1
            if index % 20 == 19 or last:
                self._check_loss()
            progress.at(self.sparsifier.steps_done, partial(self._shown, index + 1))
            every = self.config.checkpoint_steps
            if every and (index + 1) % every == 0 and not last:
                self._check_loss()
                self._checkpoint(self._epoch, index + 1, begun)
        row = {
            "epoch": self._epoch + 1,
            "step": self.sparsifier.steps_done,
            "train_loss": float(self._loss_sum) / self.steps_per_epoch,
            "lr": self.config.lr * rate,
        }
        row |= self.pace.row() if self.task.records_pace else {}
        row |= self.sparsifier.coupling.shown(self.sparsifier.state)
        every = self.config.eval_every
        if every and (self._epoch + 1) % every == 0 and self._epoch + 1 < self.config.epochs:
            row |= self._evaluated(
                f"the {self.task.quality} after {self.task.period} {row['epoch']}"
            )
        row |= self._look()
        self._metrics.append(row)
        progress.epoch(partial(self._shown, self.steps_per_epoch))
        self._epoch, self._start = self._epoch + 1, 0
        self._loss_sum.zero_()
        self._checkpoint(self._epoch, 0, begun)
        with courtesy("the trackers' entry"):
            self.accelerator.log(row, step=row["step"]) if self.config.trackers else None

    def _look(self) -> dict[str, float]:
        """The loss on what is held out, for a row of the metrics; nothing where nothing is."""
        if self.stopping is None:
            return {}

        def loss(x: Tensor, y: Tensor) -> Tensor:
            found = self._closure(x, y)()
            return found[0] if isinstance(found, tuple) else found

        return {"held_out_loss": self.stopping.look(self.plain, loss)}

    def _shown(self, done: int) -> str:
        """The run in a line, after so many steps of this epoch."""
        where = f"{self.task.period} {self._epoch + 1}/{self.config.epochs}"
        loss = f"loss {float(self._loss_sum) / done:.3f}"
        return f"{where} {loss}{self.pace.shown(self.total - self.sparsifier.steps_done)}"

    def _step(self, closures: list[Closure]) -> Tensor:
        """One step; where its scores are NaN since the weights are, the training diverged."""
        try:
            return self.sparsifier.step(*closures)
        except SteppeError:
            if not all(bool(p.isfinite().all()) for p in self.plain.parameters()):
                self._check_loss(math.nan)
            raise

    def _closure(self, x: Tensor, y: Tensor) -> Closure:
        def closure() -> Tensor | tuple[Tensor, Tensor]:
            forward = self.task.forward
            out = forward(self.model, x)
            read = "task_loss" in self.sparsifier.method.objective.reads
            loss = self.sparsifier.loss(
                self.loss(out, y) if read else None,
                outputs=out,
                inputs=x,
                targets=y,
                forward=forward,
            )
            if self.sparsifier.coupling.watches == "accuracy":
                return loss, self.task.accuracy(out, y)
            return loss

        return closure

    def _check_loss(self, last: float = 0.0) -> None:
        if math.isfinite(total := float(self._loss_sum) + last):
            return
        kept = "nothing was kept"
        if self.run is not None and self._epoch + self._start > 0:
            kept = f"the last good checkpoint (epoch {self._epoch}) is in {self.run.path}"
        raise Diverged(
            "the loss must stay finite",
            got=f"{total} in epoch {self._epoch + 1}",
            consequence=f"training stopped; {kept}",
            way_out=f"{gentler(self.sparsifier.method)}; in another folder",
        )

    def _checkpoint(self, epoch: int, start: int, begun: float) -> None:
        self._share_buffers()
        if self.run is None:
            return
        self.checkpoints.save(
            lambda: {
                "epoch": epoch,
                "start": start,
                "loss_sum": self._loss_sum,
                "metrics": self._metrics,
                "sparsifier": self.sparsifier.state_dict(),
                "seconds": self._earlier + time.monotonic() - begun,
                **{name: one.state_dict() for name, one in self._beside.items()},
            }
        )
        if self.accelerator.is_main_process:
            self.run.metrics(self._metrics)

    def _resume(self) -> None:
        state = self.checkpoints.load()
        for note in self.checkpoints.notes:
            self.sparsifier.notes.append(note)
            if self.accelerator.is_main_process:  # also when quiet: it is no progress
                print(f"steppe: {note}", file=sys.stderr, flush=True)
        if state is None:
            return
        try:
            self.sparsifier.load_state_dict(state["sparsifier"])
        except SteppeError as error:
            raise SteppeError(
                error.rule,
                got=f"{self.run and self.run.path}: {error.got}",
                way_out="another --out, where the run begins anew",
            ) from None
        self._epoch, self._start = state["epoch"], state["start"]
        self._metrics, self._earlier = state["metrics"], state["seconds"]
        self._loss_sum.copy_(state["loss_sum"])
        for name, one in self._beside.items():
            one.load_state_dict(state[name])
        assert self.run is not None
        resumed = f"resumed after step {self.sparsifier.steps_done} of {self.total}"
        self.sparsifier.notes.append(resumed)
        if self.accelerator.is_main_process:
            say_in_logs(resumed, self.quiet)
            self.run.metrics(self._metrics)

    def _reestimate(self) -> None:
        limit = min(self.config.bn_batches, len(self.batches))
        if not limit or not (self.sparsifier.method.sparsity or self.average):
            return
        # an epoch number that training never uses: other augmentations, same for any resume
        inputs = (x for x, _ in islice(self.batches.epoch(self.config.epochs), limit))
        self.sparsifier.notes += new_statistics(self.plain, inputs, self.task.forward)
