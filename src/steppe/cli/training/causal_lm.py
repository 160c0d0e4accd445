"""``steppe train`` for causal language models as a whole."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from steppe.cli.at_work import at_work
from steppe.cli.gain import say_gain
from steppe.cli.main import of_all_parameters, say
from steppe.cli.progress_line import ProgressLine
from steppe.cli.recovered import say_perplexities
from steppe.cli.training import METHOD_FLAGS, TRAININGS, Flag
from steppe.cli.training.used import check_used
from steppe.core.courtesy import courtesy
from steppe.engine.progress import watched
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import TASK, LanguageRecipe, parse
from steppe.experiment.causal_lm.record import dear
from steppe.llm.whole_training.memory import lines, peak, split_peaks


@TRAININGS.register(TASK)
class LanguageTraining:
    """Flags of a language model's training."""

    schema = LanguageRecipe
    flags = METHOD_FLAGS | {
        "data": Flag("data.text", str, "text file, folder, dataset, mixture, or self"),
        "window": Flag("data.window", int, "tokens in a window [2048 or the model's]"),
        "tokens": Flag("train.tokens", str, "of the whole run [50M]"),
        "batch_size": Flag("train.batch_size", int, "windows in a pass [8]"),
        "accumulate": Flag("train.accumulate", int, "passes in a step [1]"),
        "lr": Flag("train.lr", float, "learning rate, linear to 0 [2e-4]"),
        "optimizer": Flag("train.optimizer", str, "of torch, or adam8bit [adam]"),
        "precision": Flag("train.precision", str, "of products: auto, float32, bfloat16"),
        "checkpointing": Flag("train.checkpointing", bool, "compute blocks twice, keep less"),
        "shard": Flag("train.shard", bool, "split over the processes (FSDP2)"),
        "evaluate": Flag("evaluate.texts", list[str], "text to measure perplexity on"),
        "teacher": Flag("model.teacher", str, "whom a distillation learns from"),
        "include": Flag("include", list[str], "pattern of what to prune"),
        "exclude": Flag("exclude", list[str], "pattern of what stays dense"),
        "plan": Flag("", bool, "say what memory it would take, and end"),
        "seed": Flag("seed", int, "of the windows' order"),
        "device": Flag("device", str, "cpu, or what accelerate finds"),
    }

    @classmethod
    def begin(cls, model: str) -> dict[str, Any]:
        return {"task": TASK, "model": {"name": model}, "method": {}}

    @classmethod
    def put(cls, plain: dict[str, Any], given: Mapping[str, Any]) -> None:
        """Every flag has its place."""

    @classmethod
    def run(
        cls, plain: dict[str, Any], given: Mapping[str, Any], out: Path | None, *, quiet: bool
    ) -> dict[str, Any]:
        if given.get("plan"):  # the shapes say all; no text is read
            plain = plain | {"data": {"text": "self"} | dict(plain.get("data", {}))}
        recipe = parse(plain)
        for note in check_used(recipe, given):
            say(f"note: {note}", quiet)
        method = recipe.build_method()  # a bad method fails before text is read
        recipe.train.config()
        if given.get("plan"):
            return _planned(LanguageExperiment(recipe, out, quiet), quiet)
        if out is None:
            name = f"{Path(recipe.model.name).name}-{method.name}-{method.sparsity:g}"
            out = Path("runs") / f"{name}-seed{recipe.seed}"
            say(f"writing to {out}", quiet)
        experiment = LanguageExperiment(recipe, out, quiet)
        if not (out / "record.json").exists():
            with ProgressLine(quiet) as shown, watched(shown):
                experiment.ready()
        record, outcome = experiment.train()
        if outcome is None:
            say(f"{out} was finished before; nothing to do", quiet)
        told = [] if outcome is None else recipe.idle(experiment.window)
        with courtesy("the summary"):
            _show(record, out, quiet, told)
        return record | {"out": str(out)}


def _planned(experiment: LanguageExperiment, quiet: bool) -> dict[str, Any]:
    for note in experiment.given.idle(experiment.window):
        say(f"note: {note}", quiet)
    setting, there = experiment.plan()
    parts, split = experiment.needed(setting), split_peaks(experiment.needed, setting)
    for line in lines(parts, there, setting, split):
        say(line, quiet)
    return {
        "memory_bytes": parts | {"all": peak(parts, setting)},
        "available_bytes": there,
        "memory_bytes_split": split,
    }


def _show(record: dict[str, Any], out: Path, quiet: bool, told: list[str]) -> None:
    zeros = f"{record['sparsity_reached']:.4%} zeros in the decoder blocks"
    named = record["method_display"] if "pruned" in record else record["method"]
    say(f"{named}: {zeros}{of_all_parameters(record)}", quiet)
    say_perplexities(record, quiet, after="trained")
    for line in at_work(record["parts"], record.get("coupling", {})):
        say(line, quiet)
    say(
        f"{record['data']['tokens']:,} tokens, {record['seconds']:.1f} s, peak memory "
        f"{record['peak_memory_bytes'] / 2**30:.2f} GiB, in {out}",
        quiet,
    )
    measured = (record.get(key) or {} for key in ("before_projection", "sparse"))
    again = dear(*(one.get("perplexity") for one in measured))  # then they say why
    for note in [*record["fallbacks"], *record["notes"]]:
        if again or note not in told:
            say(f"note: {note}", quiet)
    say_gain(record, out, quiet)
    here = shlex.quote(str(out))
    say(
        f"more for it: steppe evaluate {here} --on perplexity --text FILE; steppe report {here}",
        quiet,
    )
