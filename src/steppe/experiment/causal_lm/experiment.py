"""A whole training of a language model, run: model, text, training, folder, record."""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast_object_list
from torch import nn

from steppe.core.courtesy import NOT_COMPUTED, decorated
from steppe.core.errors import SteppeError
from steppe.core.protocols import Structure
from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.early_stopping import EarlyStopping
from steppe.engine.host_memory import resident, reused
from steppe.engine.precision import MARGIN, Choice, bfloat16_ratio
from steppe.engine.sharding import shard
from steppe.engine.step.objective_loss import check_looks_at_a_teacher
from steppe.engine.trainer import Outcome, Trainer, make_accelerator
from steppe.experiment.causal_lm.originals import Originals
from steppe.experiment.causal_lm.recipe import LanguageRecipe
from steppe.experiment.causal_lm.record import Before, Ended
from steppe.experiment.causal_lm.tell import tell
from steppe.experiment.experiment import seed_everything
from steppe.llm.memory import available
from steppe.llm.pruned_pair import PrunedPair
from steppe.llm.tokens.batches import TokenBatches
from steppe.llm.tokens.mixture import mixture
from steppe.llm.tokens.packed import PackedText, Packing
from steppe.llm.tokens.sampled import of_itself
from steppe.llm.whole_training.folder import LanguageFolder
from steppe.llm.whole_training.memory import Setting, check, needed
from steppe.llm.whole_training.prepared import HELD_OUT, DenseModel, Measure, Teacher, keep_less
from steppe.llm.whole_training.task import CausalLM
from steppe.methods import display_of
from steppe.record import stamped

HELD_OUT_WINDOWS = 256
"""Of those that are held out, so many are measured at most."""
_BFLOAT16 = {"float32": "no", "bfloat16": "bf16"}


@dataclass
class LanguageExperiment:
    """A recipe made ready: `train` runs it.

    Args:
        given: what is run.
        out: the folder; None keeps nothing.
        quiet: no progress.
    """

    given: LanguageRecipe
    out: Path | None = None
    quiet: bool = False

    @cached_property
    def start(self) -> DenseModel:
        """The files of the model that is trained.

        Raises:
            SteppeError: they are others than those that the recipe's run began with.
        """
        start = DenseModel(self.given.model.name)
        if self.given.model.fingerprint not in (None, start.fingerprint):
            raise SteppeError(
                "a run goes on with the model that it began with",
                got=f"{self.given.model.name}, whose files are others now",
                way_out="restore them, or take model.fingerprint out of the recipe and give "
                "another --out",
            )
        return start

    @cached_property
    def originals(self) -> Originals:
        """What was there before: the start and, where that was pruned, the dense model of it."""
        way_out = "put it back; or --teacher and a text file"
        pair = PrunedPair(self.start.source.folder, way_out=way_out)
        return Originals(self.start, pair, pair.is_pruned)

    @cached_property
    def recipe(self) -> LanguageRecipe:
        """The recipe, with what decides the result beside its text."""
        own = {"fingerprint": self.start.fingerprint, "name": str(self.start.source.folder)}
        return self.given.model_copy(update={"model": self.given.model.model_copy(update=own)})

    @cached_property
    def window(self) -> int:
        """Tokens in a window of the training."""
        return self.start.source.window(self.given.data.window)

    @property
    def held_out(self) -> float:
        """The share of the text's windows that is never trained on."""
        return self.recipe.data.held_out

    def train(self) -> tuple[dict[str, Any], Outcome | None]:
        """Run it, or go on with it, or find that it is done.

        Returns:
            The record, and what training gave (None when the run was done before).
        """
        with reused():
            return self._trained()

    def _trained(self) -> tuple[dict[str, Any], Outcome | None]:
        folder = self._folder()
        if folder is not None and folder.record is not None:
            return folder.record, None
        spec = self.recipe.train
        parts, steps = spec.plan(self.window)
        config = spec.config(parts)
        accelerator = make_accelerator(config, self.recipe.device, str(self.out or "."))
        self.ready()
        choice = self._precision(folder, accelerator)
        setting, there = self._setting(accelerator, choice), self.available(accelerator)
        check(self.needed, there, setting, accelerator.num_processes, self.text.largest_batch)
        batches = self._batches(accelerator, steps * spec.accumulate)
        model = self._model()
        before = Before.of(model, self.recipe.include, self._excluded)
        teacher = self._teacher()
        for one in filter(None, (model, teacher) if spec.shard else ()):
            shard(one, self.start.source.names, accelerator.device)
        trainer = Trainer(
            model,
            batches,
            self.measure,
            self.recipe.build_method(),
            config,
            accelerator,
            run=folder,
            include=self.recipe.include,
            exclude=self._excluded,
            task=self._task(choice),
            reference=teacher,
            stopping=self._stopping(accelerator),
            quiet=self.quiet,
        )
        main = accelerator.is_main_process
        self._hold(trainer)
        doubts = self._doubts(trainer, before)
        tell((f"note: {doubt}" for doubt in doubts), self.quiet)
        if folder is not None and main:
            folder.claim()
            folder.keep_precision(choice.record())
        found = self._before(trainer, teacher)
        outcome = trainer.fit()
        accelerator.wait_for_everyone()
        ended = self._ended(before, found, trainer, outcome, choice)
        record: list[Any] = [None]
        if main:
            record = [self._finished(ended, bool(outcome.after), folder)]
        if accelerator.num_processes > 1:
            broadcast_object_list(record, from_process=0)
        return record[0], outcome

    def _ended(
        self,
        before: Before,
        found: dict[str, Any],
        trainer: Trainer,
        outcome: Outcome,
        choice: Choice,
    ) -> Ended:
        tokens = trainer.sparsifier.steps_done * self.recipe.train.tokens_a_step(self.window)
        return Ended(
            recipe=self.recipe,
            start=self.start,
            before=before,
            originals=self.originals,
            found=found,
            outcome=outcome,
            state=trainer.written,
            said=self.text.description | {"tokens": tokens},
            conditions={
                "device": str(trainer.accelerator.device),
                "precision": choice.record(),
                "processes": trainer.accelerator.num_processes,
            },
            structure=self._structure,
        )

    def _task(self, choice: Choice) -> CausalLM:
        return CausalLM(
            stored=self.start.source.stored_dtype,
            autocast=torch.bfloat16 if choice.mixed_precision == "bf16" else None,
        )

    def _finished(
        self, ended: Ended, measured: bool, folder: LanguageFolder | None
    ) -> dict[str, Any]:
        """The record, kept by the first process; then nothing is left to go on from."""
        plain = self._completed(ended.record(self.measure.last if measured else {}, folder))
        record = decorated(
            stamped(plain, display_of(plain["method"])),
            ended.decorations(),
            folder.finish_record if folder is not None else lambda record: None,
        )
        if folder is not None and NOT_COMPUTED not in record:
            folder.clear_checkpoints()
        return record

    def _stopping(self, accelerator: Accelerator) -> EarlyStopping | None:
        """What ends the training before its time."""
        return None

    def _hold(self, trainer: Trainer) -> None:
        """See to what the optimisers must not move."""

    def _doubts(self, trainer: Trainer, before: Before) -> list[str]:
        """What to say before the first step: what the method does not come to do, or undoes."""
        zeros = before.start.before(trainer.sparsifier.method)
        return [*self.given.idle(self.window), *filter(None, [zeros])]

    def _completed(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record, with what only this kind of training knows."""
        return record

    @property
    def _structure(self) -> Structure:
        """What the zeros of the result have in common."""
        return self.recipe.build_method().structure

    def _folder(self) -> LanguageFolder | None:
        if self.out is None:
            return None
        if self.out.resolve() == self.start.source.folder.resolve():
            raise SteppeError(
                "the trained model is written beside the model, never over it",
                got=f"{self.out} as model and as --out",
                way_out="choose another --out",
            )
        plain, today = self.recipe.plain(), self.recipe.as_today
        return LanguageFolder(self.out, plain, today, self.start.source)

    @cached_property
    def _excluded(self) -> tuple[str, ...]:
        """Patterns of what stays dense: what was asked for, and layers outside of the blocks."""
        include, exclude = self.recipe.include, self.recipe.exclude
        return (*exclude, *self.start.outside(include, exclude))

    def ready(self) -> None:
        """Look at teacher and texts, the cheapest first; the long way is to tokenise.

        Raises:
            SteppeError: one of them cannot be had, or is of another vocabulary.
        """
        _ = self._named_teacher, self.measure, self.text

    @cached_property
    def text(self) -> PackedText:
        """What is trained on, tokenised.

        Raises:
            SteppeError: it cannot be had, or is another one than that the run began with.
        """
        spec = self.recipe.train
        parts, steps = spec.plan(self.window)
        sources = [part.source for part in mixture(self.recipe.data.text)]
        packing = Packing(
            window=self.window,
            tokens=parts * steps * spec.tokens_a_step(self.window),
            held_out=self.held_out,
            beside=self.out,
            model=self.originals.dense.source.folder if any(map(of_itself, sources)) else None,
            seed=self.recipe.seed,
            device=self.recipe.device or "cpu",
        )
        text = self.start.training_text(self.recipe.data.text, packing)
        began_with = None if self._journal is None else self._journal.get("text")
        if began_with not in (None, text.description):
            raise SteppeError(
                "a run goes on with the text that it began with",
                got=f"{self.recipe.data.text}, which holds another text now",
                way_out="restore it, or choose another --out",
            )
        return text

    @cached_property
    def _journal(self) -> Journal | None:
        """What an earlier start of the run has found out."""
        return None if self.out is None else Journal(self.out / "checkpoints" / "job.json")

    def _batches(self, accelerator: Accelerator, length: int) -> TokenBatches:
        return TokenBatches(
            text=self.text,
            batch_size=self.recipe.train.batch_size,
            length=length,
            seed=self.recipe.seed,
            rank=accelerator.process_index,
            world=accelerator.num_processes,
            device=accelerator.device,
        )

    @cached_property
    def measure(self) -> Measure:
        """The texts on which perplexity is measured."""
        spec = self.recipe.evaluate
        window = self.window if spec.window is None else self.start.source.window(spec.window)
        texts = self.start.measured(spec.texts, window)
        if self.recipe.data.held_out:
            texts[HELD_OUT] = self.text.held_out(HELD_OUT_WINDOWS)
        return Measure(texts, self.recipe.train.batch_size)

    def _precision(self, folder: LanguageFolder | None, accelerator: Accelerator) -> Choice:
        """As the run began, as asked, or what is faster here by the first process's measure."""
        kept = folder.precision if folder is not None else None
        ranks.barrier()  # all have looked before the first one writes
        if kept is not None:
            return Choice.read(kept)
        asked = self.recipe.train.precision
        if asked != "auto":
            return Choice(_BFLOAT16[asked], False, "it was asked for", {})
        gain: list[float] = [1.0]
        if accelerator.is_main_process:
            rows = min(self.recipe.train.batch_size * self.window, 2048)
            gain = [bfloat16_ratio(accelerator.device, rows, self.start.source.hidden_size)]
        if accelerator.num_processes > 1:
            broadcast_object_list(gain, from_process=0)
        kind = "bf16" if gain[0] >= MARGIN else "no"
        return Choice(kind, False, f"bfloat16 takes 1/{gain[0]:.2f} of the time here", {})

    def plan(self) -> tuple[Setting, int]:
        """What decides the memory of a process, and how many bytes it can have; nothing is loaded.

        On a GPU those of the GPU. `needed` says how many it will hold.
        """
        accelerator = make_accelerator(self.recipe.train.config(), self.recipe.device, ".")
        setting = self._setting(accelerator, self._precision(None, accelerator))
        return setting, self.available(accelerator)

    def needed(self, setting: Setting) -> dict[str, int]:
        """Bytes that a process will hold, part by part."""
        return needed(self.start.source, self.recipe.build_method(), setting)

    def available(self, accelerator: Accelerator) -> int:
        """Bytes that this process can have, of those of this machine that share them."""
        free = available(self.out or Path(), str(accelerator.device))
        if accelerator.device.type == "cpu":
            return free["host"] // int(os.environ.get("LOCAL_WORLD_SIZE", "1")) + resident()
        return free.get("device", free["host"])

    def _setting(self, accelerator: Accelerator, choice: Choice) -> Setting:
        spec, world = self.recipe.train, accelerator.num_processes
        reads = self.recipe.build_method().objective.reads
        return Setting(
            batch=max(spec.batch_size // world, 1),
            window=self.window,
            optimizer=spec.optimizer,
            options=spec.options,
            low=choice.mixed_precision == "bf16",
            checkpointing=spec.checkpointing,
            processes=world if spec.shard else 1,
            accumulate=spec.accumulate,
            teacher="reference_outputs" in reads,
            held=resident() if accelerator.device.type == "cpu" else 0,
        )

    def _model(self) -> nn.Module:
        seed_everything(self.recipe.seed)
        model = self.start.load()
        if self.recipe.train.checkpointing:
            keep_less(model)
        return model

    @cached_property
    def _named_teacher(self) -> Teacher | None:
        """The network that a distillation learns from, where it is not the dense model."""
        named = self.recipe.model.teacher
        if named is None:
            return None
        check_looks_at_a_teacher(self.recipe.build_method().objective)
        return Teacher(named, self.start)

    def _teacher(self) -> nn.Module | None:
        """The network that a distillation learns from: another one, or the dense model."""
        if self._named_teacher is not None:
            return self._named_teacher.load()
        reads = self.recipe.build_method().objective.reads
        if "reference_outputs" not in reads:
            return None
        return self.originals.load()

    def _before(self, trainer: Trainer, teacher: nn.Module | None) -> dict[str, Any]:
        """What the models were before the training, found once for a run."""
        known = None if self._journal is None else self._journal.get("before")
        if known is not None:
            return dict(known)
        of, spec = (teacher, self.recipe.model.teacher), self.recipe.train
        found = self.originals.found(trainer, self.measure, of, spec.shard)
        if self._journal is not None:
            self._journal.put(before=found, text=self.text.description)
        return found
