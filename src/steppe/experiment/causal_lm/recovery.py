"""A pruned language model led back to the dense one as a whole: distilled, its zeros kept."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.protocols import Structure
from steppe.engine import ranks
from steppe.engine.blockwise.trained import TRAINED
from steppe.engine.early_stopping import EarlyStopping
from steppe.engine.kept_zeros import KeptZeros
from steppe.engine.precision import Choice
from steppe.engine.trainer import Trainer
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.originals import Originals
from steppe.experiment.causal_lm.record import Before
from steppe.experiment.causal_lm.recovery_recipe import RecoveryRecipe
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.recover_config import RecoverConfig
from steppe.llm.side_files import copy_plan
from steppe.llm.whole_training.memory import Setting
from steppe.llm.whole_training.task import CausalLM

JUDGED = 64
"""Windows that the best state is chosen on at most, evenly spaced in what is held out."""


@dataclass(frozen=True, kw_only=True)
class _Recovering(CausalLM):
    """Next tokens, and zeros that end with the signs that they had."""

    zeros: KeptZeros

    @torch.no_grad()
    def settle(self, model: nn.Module) -> None:
        super().settle(model)
        self.zeros.settle(model)


@dataclass
class Recovery(LanguageExperiment):
    """A recovery made ready: `train` runs it.

    Args:
        given: what is run; its model is the pruned one, its teacher the dense one.
        out: the folder; None keeps nothing.
        quiet: no progress.

    Raises:
        SteppeError: the two models do not fit each other.
    """

    given: RecoveryRecipe

    @classmethod
    def of(cls, folder: str | Path, config: RecoverConfig, quiet: bool = False) -> Recovery:
        """What `steppe.recover` asks for.

        Args:
            folder: the pruned model.
            config: of scope ``whole``.
            quiet: no progress.
        """
        return cls(_recipe(folder, config), config.out, quiet)

    def recover(self, report: Any = None) -> dict[str, Any]:
        """Train, or go on; the record. There are no blocks to report."""
        record, _ = self.train()
        if self.out is not None and ranks.first():
            copy_plan(self.start.source.folder, self.out)
        return record

    @cached_property
    def recipe(self) -> RecoveryRecipe:
        pair, teacher = self.originals.pair, self.originals.dense
        given = super().recipe
        assert isinstance(given, RecoveryRecipe)
        known = given.recover.dense
        if known not in (None, teacher.fingerprint):
            raise SteppeError(
                "a run goes on with the dense model that it began with",
                got=f"{teacher.source.folder}, whose files are others now",
                way_out="restore them, or another --out",
            )
        model = given.model.model_copy(update={"teacher": str(teacher.source.folder)})
        own = given.recover.model_copy(update={"dense": teacher.fingerprint})
        changed: dict[str, Any] = {"model": model, "recover": own}
        if not (given.include or given.exclude):  # the layers that count as pruned
            changed |= pair.patterns
        return given.model_copy(update=changed)

    @cached_property
    def originals(self) -> Originals:
        return Originals(
            self.start, PrunedPair(self.start.source.folder, self.given.model.teacher), pruned=True
        )

    @property
    def held_out(self) -> float:
        return self.recipe.recover.held_out

    @property
    def _structure(self) -> Structure:
        return self.originals.pair.structure(super()._structure)

    def ready(self) -> None:
        """Look for zeros first; then as every training.

        Raises:
            SteppeError: there are none, or fewer than the masks name; or what the texts raise.
        """
        _ = self._nonzero
        super().ready()

    @cached_property
    def _nonzero(self) -> dict[str, int]:
        """Tensor of the pruned checkpoint -> how many of its numbers are not zero."""
        source = self.start.source
        found = source.checkpoint.check_finite()
        self.originals.pair.check_zeros(source, found)
        return found

    def _model(self) -> nn.Module:
        model = super()._model()
        chosen = {id(p) for p in self._chosen(model)}
        for parameter in model.parameters():
            parameter.requires_grad_(id(parameter) in chosen)
        self._zeros = KeptZeros(model)
        return model

    def _chosen(self, model: nn.Module) -> list[nn.Parameter]:
        named = {n: p for n, p in model.named_parameters() if p.is_floating_point()}
        return TRAINED[self.recipe.recover.train].chosen(named)

    def _teacher(self) -> nn.Module:
        return self.originals.load()

    def _task(self, choice: Choice) -> CausalLM:
        plain = super()._task(choice)
        return _Recovering(stored=plain.stored, autocast=plain.autocast, zeros=self._zeros)

    def _setting(self, accelerator: Accelerator, choice: Choice) -> Setting:
        trained = sum(p.numel() for p in self._chosen(self.start.source.model))
        taught_by = self.originals.dense.source.parameters()
        setting = super()._setting(accelerator, choice)
        return replace(setting, trained=trained, keeps_best=True, taught_by=taught_by)

    def _stopping(self, accelerator: Accelerator) -> EarlyStopping:
        size = max(self.recipe.train.batch_size // accelerator.num_processes, 1)
        judged = judged_windows(self.text.held_out(), size).to(accelerator.device)
        batches = [(windows, windows) for windows in judged.split(size)]
        self._early = EarlyStopping(batches, self.recipe.recover.patience)
        return self._early

    def _hold(self, trainer: Trainer) -> None:
        self._zeros.hold(trainer.plain, trainer.optimizers)

    def _doubts(self, trainer: Trainer, before: Before) -> list[str]:
        return []  # each zero is held

    def _completed(self, record: dict[str, Any]) -> dict[str, Any]:
        pair = self.originals.pair
        return (
            record
            | pair.gone
            | {
                "method_display": pair.recovered,
                "sparsity_asked": pair.record.get("sparsity_asked"),
                "early_stopping": self._early.row(),
            }
        )


def judged_windows(held_out: Tensor, batch: int) -> Tensor:
    """Of the windows that are held out those that are looked at: whole batches, evenly spaced.

    Example:
        >>> judged_windows(torch.arange(7).view(7, 1), 3).flatten().tolist()
        [0, 1, 2, 3, 4, 5]
    """
    there = len(held_out)
    count = min(there, max(JUDGED, batch))
    count -= count % batch if count > batch else 0
    return held_out[torch.arange(count) * there // count]


def _recipe(folder: str | Path, config: RecoverConfig) -> RecoveryRecipe:
    if config.calibration is None or isinstance(config.calibration, Tensor):
        raise SteppeError(
            "a whole model is recovered on a text that has a name",
            got="none" if config.calibration is None else "token ids in memory",
            way_out="--calibration FILE, FOLDER, DATASET or self; ids: a .safetensors file with "
            "them as tokens",
        )
    fit = config.reconstruction
    return RecoveryRecipe.model_validate(
        {
            "model": {"name": str(folder), "teacher": config.dense and str(config.dense)},
            "data": {"text": str(config.calibration), "window": config.window},
            "evaluate": {
                "texts": tuple(str(name) for name in config.evaluate),
                "window": config.evaluate_window,
            },
            "include": config.include,
            "exclude": config.exclude,
            "train": {
                "tokens": config.tokens,
                "parts": config.parts,
                "batch_size": fit.batch_size,
                "accumulate": config.accumulate,
                "lr": fit.lr,
                "warmup": 0.05,
                "optimizer": fit.optimizer,
                "precision": config.precision,
                "checkpointing": config.checkpointing,
                "shard": config.shard,
            },
            "recover": {
                "train": config.train,
                "held_out": config.held_out,
                "patience": config.patience,
            },
            "seed": config.seed,
            "device": config.device,
        }
    )
