"""A recipe, run: model, data, training, record."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from steppe.core.courtesy import decorated
from steppe.core.errors import SteppeError
from steppe.core.hub_names import nearest
from steppe.core.notes import note
from steppe.core.protocols import CandidateEvaluator, SearchBudget
from steppe.core.unfinished import goes_on, is_unfinished
from steppe.engine.precision import Choice
from steppe.engine.run_folder import RunFolder, versions
from steppe.engine.step.candidate_evaluation import candidate_evaluator
from steppe.engine.trainer import Batches, Outcome, Trainer, make_accelerator
from steppe.engine.training_task import Classification, TrainingTask
from steppe.experiment.batch_statistics import check_statistics
from steppe.experiment.channels import Channels, channels_of
from steppe.experiment.ending import Ending, clean
from steppe.experiment.recipe import Recipe
from steppe.experiment.settled import processes_of, settled
from steppe.method import Method
from steppe.methods import display_of
from steppe.record import stamped
from steppe.robustness.label_noise import noisy_labels
from steppe.vision.data import ImageData, load
from steppe.vision.loader import Loader
from steppe.vision.models import build, load_weights, logits, start_from

TESTED = 500
"""Images of a batch that is only measured."""


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch: what a model's initial weights depend on."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_data(recipe: Recipe, say: Callable[[str], object] = note) -> ImageData:
    """The recipe's images; of the training labels some wrong, if it says so.

    Args:
        recipe: of the run.
        say: called with each sentence on what was left out or read in one of several ways.
    """
    spec = recipe.data
    data = load(
        spec.name,
        train_size=spec.train_size,
        test_size=spec.test_size,
        validation=spec.validation,
        seed=spec.seed,
        cache=spec.cache,
        size=spec.size,
        num_classes=spec.num_classes,
        mean=spec.mean,
        std=spec.std,
        augment=spec.augment,
        value_range=spec.value_range,
        channels=spec.channels,
        background=spec.background,
        resize=spec.resize,
        interpolation=spec.interpolation,
        stream=spec.stream,
        workers=spec.workers,
        say=say,
    )
    if spec.label_noise is None:
        return data
    given = spec.label_noise.model_dump()
    noisy = noisy_labels(data.train.labels, data.num_classes, **given)
    return replace(data, train=data.train.labelled(noisy.labels), clean_labels=noisy.clean)


def build_model(recipe: Recipe, data: ImageData, say: Callable[[str], object] = note) -> nn.Module:
    """The recipe's network with its starting weights.

    Args:
        recipe: of the run.
        data: its images.
        say: called with a sentence where the head starts at random, as the weights to start from
            are for another number of classes.
    """
    seed_everything(recipe.seed)
    options = recipe.model.given
    name, weights = recipe.model.name, recipe.model.weights
    random_start = recipe.model.pretrained is False and weights is None
    said = [f"{name} starts at random (pretrained: false)"] if random_start else []
    model = build(name, data.num_classes, data.shape, say=said.append, **options)
    if weights is not None:
        said = start_from(model, weights)  # a head that was random before has weights now
    for sentence in said:
        say(sentence)
    return model


@dataclass(frozen=True)
class Inputs:
    """The inputs of a loader's first epoch, each time anew."""

    loader: Batches

    def __iter__(self) -> Iterator[Tensor]:
        return (x for x, _ in self.loader.epoch(0))


@dataclass
class Experiment:
    """A recipe made ready: `train` runs it."""

    recipe: Recipe
    data: ImageData
    out: Path | None = None
    quiet: bool = False
    say: Callable[[str], object] = note
    """Called with each sentence on a head that starts at random."""
    notes: list[str] = field(default_factory=list)
    """What was said so."""

    ending: ClassVar[type[Ending]] = Ending
    quality: ClassVar[str] = "accuracy"
    """The measure by which channels are tried out; more is better."""

    def network(self) -> nn.Module:
        """The recipe's network with its starting weights."""
        return build_model(self.recipe, self.data, self.notes.append)

    def loader(self, part: str, batch_size: int, **options: Any) -> Batches:
        """Batches of a part of the data, see `steppe.vision.loader.Loader.of`."""
        return Loader.of(self.data, part, batch_size, **options)

    @property
    def measures_shares(self) -> bool:
        """Whether each process measures its share of the images: where decoding is what costs."""
        return self.data.streamed

    def task(self, model: nn.Module, shared: bool = False) -> TrainingTask:
        """How the network is run and what its loss is.

        Args:
            model: the network.
            shared: whether a batch is one of several processes, who all compute its loss.
        """
        return Classification(run=logits, label_smoothing=self.recipe.train.label_smoothing)

    def measured(self, model: nn.Module, batches: Any) -> dict[str, Any]:
        """How good the network is on some data, each example once."""
        return clean(model, batches)

    def train(self) -> tuple[dict[str, Any], nn.Module, Outcome | None]:
        """Run it, or go on with it, or find that it is done.

        Returns:
            The record, the model, and what training gave (None when the run was done before).
        """
        recipe = self.recipe
        folder = RunFolder(self.out, recipe.plain(), recipe.as_today) if self.out else None
        method = recipe.build_method()
        recipe.check_start(method)
        config = recipe.train.config()
        self.notes.clear()
        model = self.network()
        if (record := self._finished(folder, model)) is not None:
            return record, model, None
        self._check_head(method)
        self._check_batches(model)
        choice = settled(recipe, model, self.loader, self.task(model), folder, self.quiet)
        config = replace(config, **choice.settings)
        accelerator = make_accelerator(config, recipe.device, str(self.out or "."))
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        options: dict[str, Any] = {"device": accelerator.device, "memory_format": layout}
        together = accelerator.num_processes
        share = {"rank": accelerator.process_index, "world": together}
        loader = self.loader("train", recipe.train.batch_size, seed=recipe.seed, **share, **options)
        share = share if self.measures_shares else {}
        tested = max(TESTED // together, 1) * together
        tester = self.loader(recipe.evaluate, tested, **share, **options)
        first = self.loader(recipe.evaluate, 1, workers=0, **options)
        example = next(first.epoch(0))[0]
        # in the layout of the training, as a latency table holds for one
        model.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        channels = channels_of(recipe, model, example, self.data.num_classes)
        original = copy.deepcopy(model)  # before a method makes something else of its weights
        trainer = Trainer(
            model,
            loader,
            lambda m: self.measured(m, tester),
            method,
            config,
            accelerator,
            run=folder,
            include=recipe.include,
            exclude=recipe.exclude,
            groups=channels.groups if channels else (),
            cost=channels.cost if channels else None,
            evaluate_candidate=self._evaluator(model, channels, options),
            task=self.task(model, shared=together > 1),
            quiet=self.quiet,
        )
        started = trainer.evaluate() if recipe.model.weights and not self.notes else {}
        if folder is not None and accelerator.is_main_process:
            folder.claim()
            folder.keep_precision(choice.record())
        outcome = trainer.fit()
        main = folder is not None and accelerator.is_main_process
        record = decorated(
            stamped(self._record(outcome, started, accelerator, choice), display_of(method.name)),
            self.ending(recipe, self.data, outcome, trainer, original, example, channels).all(),
            folder.finish_record if folder is not None and main else lambda record: None,
        )
        accelerator.wait_for_everyone()
        return record, model, outcome

    def _check_head(self, method: Method) -> None:
        """Say that the head starts at random, if it does.

        Raises:
            SteppeError: the objective learns from the network as it starts.
        """
        for sentence in self.notes:
            self.say(sentence)
        if self.notes and "reference_outputs" in method.objective.reads:
            raise SteppeError(
                f"objective {method.objective.name} learns from the network that training starts "
                "from, so its head must be trained",
                got=self.notes[0],
                way_out="train a dense network on these data first, and give its run as weights",
            )

    def _check_batches(self, model: nn.Module) -> None:
        """Refuse batches too small for the network's norms, before anything is computed."""
        size, processes = self.recipe.train.batch_size, processes_of(self.recipe).num_processes
        check_statistics(model, self.task(model).forward, self.data.shape, size, processes)

    def _finished(self, folder: RunFolder | None, model: nn.Module) -> dict[str, Any] | None:
        """The record of a run that is done, its weights loaded; None where it must go on."""
        record = folder.record if folder is not None else None
        if folder is None or record is None:
            return None
        try:
            load_weights(model, str(folder.path))
        except SteppeError as error:
            if not folder.resumable:
                raise
            folder.notes.append(f"the end of the run is done again, since {error.got} is damaged")
            return None
        return record

    def _evaluator(
        self, model: nn.Module, channels: Channels | None, options: dict[str, Any]
    ) -> CandidateEvaluator | None:
        """How good the network is with some channels, on images held out from training."""
        if channels is None or not isinstance(self.recipe.build_method().budget, SearchBudget):
            return None
        if self.data.validation is None:
            raise SteppeError(
                "a budget that tries channels out needs images held out from training",
                got="data.validation 0",
                way_out="data: {validation: 0.1} in the recipe",
            )
        # whole batches, not a share of each: all processes must choose the same
        size, seed = self.recipe.train.batch_size, self.recipe.seed
        loader = self.loader("train", size, seed=seed, **options)
        validation = self.loader("validation", TESTED, **options)
        return candidate_evaluator(
            model,
            channels.groups,
            Inputs(loader),
            lambda m: self.measured(m, validation)[self.quality],
            max(self.recipe.train.bn_batches, 1),
            self.task(model).forward,
        )

    def _record(
        self, outcome: Outcome, started: dict[str, float], accelerator: Accelerator, choice: Choice
    ) -> dict[str, Any]:
        """What the run itself knows: nothing here is computed anew."""
        done = outcome.finished
        method, recipe = self.recipe.build_method(), self.recipe.plain()
        return {
            "method": method.name,
            "recipe": recipe,
            "device": str(accelerator.device),
            "precision": choice.record(),
            "parts": method.to_dict(),
            "sparsity_asked": method.sparsity,
            "sparsity_reached": done.reached,
            "sparsity_of_all": done.sparsity_of_all,
            "units_zeroed": done.units_zeroed,
            "units": done.units,
            "evaluated_on": self.recipe.evaluate,
            "dense": dict(started),
            "before_projection": outcome.before,
            "sparse": dict(outcome.after),
            "projection_distance": done.distance,
            "zeros_before_projection": done.zeros_before,
            "layers": [
                {"name": name, "total": m.numel(), "zeros": int((~m).sum())}
                for name, m in done.masks.items()
                if m.ndim > 1
            ],
            "coupling": outcome.coupling,
            "metrics": outcome.metrics,
            "seconds": outcome.seconds,
            "peak_memory_bytes": outcome.peak_memory,
            "seed": self.recipe.seed,
            "versions": versions(),
            "fallbacks": [],
            "notes": [*self.data.notes, *self.notes, *outcome.notes],
        }


def read_run(path: Path) -> Recipe:
    """The recipe of a finished run.

    Raises:
        SteppeError: the folder is no run, or the run is not finished.
    """
    from steppe.experiment.read import read_plain
    from steppe.experiment.tasks import task_of

    if not (path / "recipe.yaml").exists():
        there = "" if path.exists() else ", which does not exist"
        raise SteppeError(
            "a run is a folder made by steppe train",
            got=f"{path}{there}",
            way_out=nearest(path) + "steppe train --out RUN makes one",
        )
    if not (path / "record.json").exists() or not os.path.exists(path / "model.safetensors"):
        raise SteppeError(
            "the run must be finished",
            got=str(path),
            way_out=goes_on(path) if is_unfinished(path) else "start the same steppe train again",
        )
    data, file = read_plain(path / "recipe.yaml")
    recipe: Recipe = task_of(data, path).load(data, str(file), path)
    return recipe
