"""A recipe, run: model, data, training, record."""

from __future__ import annotations

import copy
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.protocols import CandidateEvaluator, SearchBudget
from steppe.engine.model_latency import latencies_ms
from steppe.engine.run_folder import RunFolder, versions
from steppe.engine.step.candidate_evaluation import candidate_evaluator
from steppe.engine.trainer import Outcome, Trainer, make_accelerator
from steppe.experiment.channels import Channels, channels_of, slim
from steppe.experiment.recipe import Recipe
from steppe.methods import display_of
from steppe.record import stamped
from steppe.robustness.label_noise import noisy_labels
from steppe.robustness.surface import evaluating
from steppe.vision.data import ImageData, load
from steppe.vision.data.base import Split
from steppe.vision.loader import Loader
from steppe.vision.models import build, load_weights, logits


def seed_everything(seed: int) -> None:
    """Python, NumPy and torch: what a model's initial weights depend on."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def load_data(recipe: Recipe) -> ImageData:
    """The recipe's images; of the training labels some wrong, if it says so."""
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
    )
    if spec.label_noise is None:
        return data
    given = spec.label_noise.model_dump()
    noisy = noisy_labels(data.train.labels, data.num_classes, **given)
    train = Split(data.train.images, noisy.labels)
    return replace(data, train=train, clean_labels=noisy.clean)


def believed(model: nn.Module, data: ImageData, device: torch.device | str) -> dict[str, Any]:
    """What a network trained on wrong labels makes of its training images.

    Returns:
        ``changed`` labels, and of these images the shares that get the label ``given`` and the
        ``clean`` one; empty when no label was changed.
    """
    if data.clean_labels is None:
        return {}
    where = data.train.labels != data.clean_labels
    parts = {
        "given": Split(data.train.images[where], data.train.labels[where]),
        "clean": Split(data.train.images[where], data.clean_labels[where]),
    }
    shares: dict[str, Any] = {"changed": int(where.sum())}
    if not shares["changed"]:
        return shares
    with evaluating(model):
        for name, split in parts.items():
            loader = Loader.of(replace(data, test=split), "test", 500, device=device)
            shares[name] = clean(model, loader)["accuracy"]
    return shares


def build_model(recipe: Recipe, data: ImageData) -> nn.Module:
    """The recipe's network with its starting weights."""
    seed_everything(recipe.seed)
    model = build(recipe.model.name, data.num_classes, data.shape, **recipe.model.options)
    if recipe.model.weights is not None:
        load_weights(model, recipe.model.weights)
    return model


@torch.no_grad()
def clean(model: nn.Module, loader: Loader) -> dict[str, float]:
    """Accuracy (fraction) and mean cross entropy over a loader, each image once."""
    right, loss, seen = 0, 0.0, 0
    for x, y in loader.epoch(0):
        out = logits(model, x).float()
        right += int((out.argmax(-1) == y).sum())
        loss += float(F.cross_entropy(out, y, reduction="sum"))
        seen += len(y)
    return {"accuracy": right / seen, "loss": loss / seen}


def size(model: nn.Module, masks: dict[str, Tensor] | None = None) -> dict[str, int]:
    """Parameters, how many are not zero, bytes as stored, bytes if zeros were a bit mask."""
    values = list(dict(unwrap(model).named_parameters()).items())
    parameters = sum(p.numel() for _, p in values)
    nonzero = sum(int(torch.count_nonzero(p)) for _, p in values)
    stored = sum(p.numel() * p.element_size() for _, p in values)
    packed = stored
    for name, mask in (masks or {}).items():
        element = dict(values)[name].element_size()
        packed -= int((~mask).sum()) * element - (mask.numel() + 7) // 8
    return {
        "parameters": parameters,
        "nonzero": nonzero,
        "bytes": stored,
        "bytes_packed": min(packed, stored),
    }


@dataclass(frozen=True)
class Inputs:
    """The inputs of a loader's first epoch, each time anew."""

    loader: Loader

    def __iter__(self) -> Iterator[Tensor]:
        return (x for x, _ in self.loader.epoch(0))


@dataclass
class Experiment:
    """A recipe made ready: `train` runs it."""

    recipe: Recipe
    data: ImageData
    out: Path | None = None
    quiet: bool = False
    part: str = "test"
    """What is evaluated: test, or validation while options are chosen."""

    def train(self) -> tuple[dict[str, Any], nn.Module, Outcome | None]:
        """Run it, or go on with it, or find that it is done.

        Returns:
            The record, the model, and what training gave (None when the run was done before).
        """
        recipe = self.recipe
        folder = RunFolder(self.out, recipe.plain()) if self.out is not None else None
        method = recipe.build_method()
        recipe.check_start(method)
        config = recipe.train.config()
        model = build_model(recipe, self.data)
        if folder is not None and folder.record is not None:
            load_weights(model, str(folder.path))
            return folder.record, model, None
        accelerator = make_accelerator(config, recipe.device, str(self.out or "."))
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        options: dict[str, Any] = {"device": accelerator.device, "memory_format": layout}
        loader = Loader.of(
            self.data,
            "train",
            recipe.train.batch_size,
            seed=recipe.seed,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            **options,
        )
        tester = Loader.of(self.data, self.part, 500, **options)
        example = next(tester.epoch(0))[0][:1]
        # in the layout of the training, as a latency table holds for one
        model.to(accelerator.device, memory_format=layout)  # type: ignore[call-overload]
        channels = channels_of(recipe, model, example)
        original = copy.deepcopy(model)  # before a method makes something else of its weights
        trainer = Trainer(
            model,
            loader,
            lambda m: clean(m, tester),
            method,
            config,
            accelerator,
            run=folder,
            include=recipe.include,
            exclude=recipe.exclude,
            groups=channels.groups if channels else (),
            cost=channels.cost if channels else None,
            evaluate_candidate=self._evaluator(model, channels, loader, options),
            forward=logits,
            quiet=self.quiet,
        )
        started = trainer.evaluate() if recipe.model.weights is not None else {}
        dense: dict[str, Any] = started | size(original)
        if folder is not None and accelerator.is_main_process:
            folder.claim()
        outcome = trainer.fit()
        sparse: dict[str, Any] = outcome.after | size(model, outcome.finished.masks)
        bare = accelerator.unwrap_model(trainer.model)
        dense["latency_ms"], sparse["latency_ms"] = latencies_ms([original, bare], example)
        gone = _removed(bare, example, channels, dense, sparse) if channels else {}
        wrong = believed(bare, self.data, accelerator.device)
        plain = self._record(outcome, dense, sparse, str(accelerator.device), wrong) | gone
        record = stamped(plain, display_of(method.name))
        if folder is not None and accelerator.is_main_process:
            folder.finish(model.state_dict(), outcome.finished.masks, record)
        accelerator.wait_for_everyone()
        return record, model, outcome

    def _evaluator(
        self, model: nn.Module, channels: Channels | None, loader: Loader, options: dict[str, Any]
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
        validation = Loader.of(self.data, "validation", 500, **options)
        return candidate_evaluator(
            model,
            channels.groups,
            Inputs(loader),
            lambda m: clean(m, validation)["accuracy"],
            max(self.recipe.train.bn_batches, 1),
            logits,
        )

    def _record(
        self,
        outcome: Outcome,
        dense: dict[str, Any],
        sparse: dict[str, Any],
        device: str,
        wrong: dict[str, Any],
    ) -> dict[str, Any]:
        done = outcome.finished
        method, recipe = self.recipe.build_method(), self.recipe.plain()
        return {
            "method": method.name,
            "recipe": recipe,
            "device": device,
            "parts": method.to_dict(),
            "sparsity_asked": method.sparsity,
            "sparsity_reached": done.reached,
            "units_zeroed": done.units_zeroed,
            "units": done.units,
            "evaluated_on": self.part,
            "dense": dense,
            "before_projection": outcome.before,
            "sparse": sparse,
            "projection_distance": done.distance,
            "zeros_before_projection": done.zeros_before,
            "layers": [
                {"name": name, "total": m.numel(), "zeros": int((~m).sum())}
                for name, m in done.masks.items()
                if m.ndim > 1
            ],
            "metrics": outcome.metrics,
            "seconds": outcome.seconds,
            "peak_memory_bytes": outcome.peak_memory,
            "seed": self.recipe.seed,
            "versions": versions(),
            "fallbacks": [],
            "notes": [
                *outcome.notes,
                *projection_notes(outcome),
                *guessing_notes(outcome, len(self.data.classes)),
            ],
            **({"label_noise": wrong} if wrong else {}),
            "gain": gain(dense, sparse, str(recipe["method"].get("structure", "unstructured"))),
        }


def _removed(
    model: nn.Module,
    example: Tensor,
    channels: Channels,
    dense: dict[str, Any],
    sparse: dict[str, Any],
) -> dict[str, Any]:
    """What is left when the channels are sliced out; its sizes and times go into ``sparse``."""
    removed, gained = slim(model, example, channels)
    sparse |= size(removed.model)
    dense["latency_ms"], sparse["latency_ms"] = gained["latency_ms"]
    dense["flops"], sparse["flops"] = gained["flops"]
    dense["latency_ms_64"], sparse["latency_ms_64"] = gained["latency_ms_64"]
    gained |= {"round_to": channels.round_to, "target": channels.cost.unit}
    return {"removed": gained, "left_out": channels.left_out}


def projection_notes(outcome: Outcome) -> list[str]:
    """What to say when the last projection cost accuracy: x and z had not met."""
    lost = outcome.before["accuracy"] - outcome.after["accuracy"]
    if lost < 0.02 or outcome.finished.distance == 0.0:
        return []
    return [
        f"the last projection cost {100 * lost:.1f} points of accuracy and moved the weights by "
        f"{outcome.finished.distance:.1%}: for a run of this length the pull was too weak; raise "
        "the penalty (tenfold to begin with), or train longer"
    ]


def guessing_notes(outcome: Outcome, classes: int) -> list[str]:
    """What to say of a network that answers no better than by chance."""
    accuracy = outcome.after["accuracy"]
    if accuracy > 1.5 / classes:
        return []
    return [
        f"{accuracy:.1%} is what guessing among {classes} classes gives: the run has failed; try a "
        "lower sparsity, rho, penalty or learning rate, or train longer"
    ]


def gain(dense: dict[str, Any], sparse: dict[str, Any], structure: str) -> str:
    """One plain sentence: what was gained here, or that nothing was, and why."""
    ratio = dense["latency_ms"] / sparse["latency_ms"]
    smaller = dense["bytes"] / sparse["bytes_packed"]
    if "flops" in sparse:
        wide = dense["latency_ms_64"] / sparse["latency_ms_64"]
        return (
            f"{1 - sparse['parameters'] / dense['parameters']:.1%} of the parameters and "
            f"{1 - sparse['flops'] / dense['flops']:.1%} of the multiply-adds are gone; here one "
            f"image is {ratio:.2f}x and 64 images are {wide:.2f}x as fast as dense."
        )
    zeros = 1 - sparse["nonzero"] / sparse["parameters"]
    if zeros < 0.01:
        return "Nothing was pruned."
    text = (
        f"{zeros:.1%} of all parameters are zero; with a bit mask they store {smaller:.1f}x smaller"
    )
    if ratio > 1.1:
        return f"{text}, and one image is {ratio:.2f}x faster here."
    return (
        f"{text}; no speed-up here ({ratio:.2f}x): dense kernels multiply {structure} zeros too, "
        "only N:M on some GPUs and removed channels run faster."
    )


def read_run(path: Path) -> Recipe:
    """The recipe of a finished run.

    Raises:
        SteppeError: the folder is no run, or the run is not finished.
    """
    from steppe.experiment.recipe import read

    if not (path / "recipe.yaml").exists():
        raise SteppeError(
            "a run is a folder made by steppe train",
            got=str(path),
            way_out="steppe train --out RUN",
        )
    if not (path / "record.json").exists() or not os.path.exists(path / "model.safetensors"):
        raise SteppeError(
            "the run must be finished", got=str(path), way_out="start the same steppe train again"
        )
    return read(path / "recipe.yaml")
