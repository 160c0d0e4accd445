"""Decoder blocks that go: tried out on calibration windows, one block in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import BlockBudget
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import advanced
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.plan_trial import called_block, evaluation
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.block_trials import CountedTrials, StreamedTrials
from steppe.llm.structured.choice import CHECKS, CHOOSERS, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.cut import Cut, configured
from steppe.llm.structured.depth import kinds_of, passing_by
from steppe.llm.structured.fresh_record import FreshRecord

JOURNAL = "blocks.json"


@CHOOSERS.register("blocks")
def tried(prepared: PreparedPruning, report: Report) -> Choice:
    """Choose block after block, or all at once, as the budget says; a round is done once.

    The blocks that stay are those of the dense model.

    Raises:
        SteppeError: a weight is no number, and all that measuring raises.
    """
    measured, model = FreshRecord(prepared, prepared.texts()), prepared.model
    rounds = _chosen(prepared, measured.keep_time)
    gone = [name for row in rounds for name in row["blocks"]]
    model.free_rest()
    record = measured.of([], [], **_said(model, gone, rounds))
    cut = Cut({}, tuple(name for name in model.names if name not in gone))
    without = partial(passing_by, names=gone)
    return Choice(cut=cut, source=model.folder, record=record, without=without)


def _said(model: StreamedModel, gone: list[str], rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """What the record says of the blocks that go, of which no zero is left."""
    weights = {True: 0, False: 0}
    for layer in model.layers():
        weights[layer.block in gone] += layer.numel
    inside = (model.model.get_submodule(name).parameters() for name in gone)
    lost = sum(p.numel() for parameters in inside for p in parameters)
    return {
        "sparsity_reached": weights[True] / max(sum(weights.values()), 1),
        "sparsity_of_all": lost / model.parameters(),
        "rounds": rounds,
        "seconds_pruning": round(sum(row["seconds"] for row in rounds), 3),
    }


def _chosen(prepared: PreparedPruning, kept: Callable[[], None]) -> list[dict[str, Any]]:
    """The rounds: each says which blocks went, and what each that could go was rated."""
    budget, (may_go, number) = _budget(prepared), _asked(prepared)
    folder = prepared.out / "checkpoints"
    journal = Journal(folder / JOURNAL)
    rounds: list[dict[str, Any]] = list(journal.get("rounds", []))
    of = _rounds(budget, number)

    def watch(done: int, passes: int) -> None:
        title = f"blocks tried out, round {len(rounds) + 1} of {of}"
        advanced(title, done, passes, "passes through a block")

    trials = StreamedTrials(
        prepared.model,
        _windows(prepared),
        folder,
        prepared.config.micro_batch,
        may_go,
        watch,
    )
    for row in rounds:
        for name in row["blocks"]:
            trials.remove(name)
    while len(rounds) < of:
        began = time.perf_counter()
        going, rated = _round(budget, trials, number)
        seconds = round(time.perf_counter() - began, 4)
        rounds.append({"blocks": going, "rated": rated, "seconds": seconds})
        journal.put(rounds=rounds)
        kept()
    return rounds


def _rounds(budget: BlockBudget, number: int) -> int:
    """How often the blocks are looked at until so many are gone."""
    return number if budget.greedy else min(number, 1)


def _round(
    budget: BlockBudget, trials: StreamedTrials | CountedTrials, number: int
) -> tuple[list[str], dict[str, float]]:
    """The blocks that go next, which then are gone, and what each that could go was rated."""
    rated = budget.rated(trials)
    lowest = sorted(rated, key=lambda name: rated[name])  # of equals the first
    going = lowest[: 1 if budget.greedy else number]
    for name in going:
        trials.remove(name)
    return going, rated


@EXPECTATIONS.register("blocks")
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """The passes through blocks are counted; one block is called on trial, none is left out."""
    budget, model, (may_go, number) = _budget(prepared), prepared.model, _asked(prepared)
    parameters = {
        n: sum(p.numel() for p in model.model.get_submodule(n).parameters()) for n in may_go
    }
    gone = sorted(may_go, key=lambda name: parameters[name])[:number]
    counted = CountedTrials(model.names, may_go)
    for _ in range(of := _rounds(budget, number)):
        _round(budget, counted, number)
    windows, stay = len(_windows(prepared)), tuple(n for n in model.names if n not in gone)
    seconds: dict[str, float] = {}
    if dry_run:
        taken = called_block(prepared)
        seconds = {
            "load": taken["load"] * counted.loads,
            "passes": taken["pass"] * windows * counted.passes,
            "losses": taken["head"] * windows * counted.heads,
            "cut": (taken["load"] + taken["write"]) * len(stay),
        }
        seconds |= evaluation(prepared, texts, taken["pass"], taken["load"])
    steps = [
        f"found in {of} round{'s' * (of != 1)}: {counted.passes} passes of {windows} windows "
        "through a block in all"
    ]
    return Expected(
        cut=Cut({}, stay),
        at_most=len(set(parameters.values())) > 1,
        seconds=seconds,
        steps=steps,
    )


def _budget(prepared: PreparedPruning) -> BlockBudget:
    budget = prepared.method.budget
    assert isinstance(budget, BlockBudget), "structure layers takes no other"
    return budget


def _windows(prepared: PreparedPruning) -> Tensor:
    assert prepared.tokens is not None, "such a budget needs windows, which was checked"
    return _budget(prepared).windows(prepared.tokens)


def _asked(prepared: PreparedPruning) -> tuple[list[str], int]:
    """Blocks that may go, and how many do.

    Raises:
        SteppeError: none would be left, none would go, or none may.
    """
    config, model = prepared.config, prepared.model
    chosen = {layer.name for layer in model.layers(config.include, config.exclude)}
    layers = model.layers()
    only_parts = {layer.block for layer in layers if layer.name not in chosen}
    may_go = [n for n in model.names if n in {x.block for x in layers} - only_parts]
    if not may_go:
        raise SteppeError(
            "a block goes whole, if no pattern leaves a part of it out",
            got=f"no block of {len(model)} that may",
            way_out=f"--exclude '{model.names[0]}.*' for a block that shall stay, or no pattern",
        )
    sparsity = prepared.method.sparsity
    number = round(sparsity * len(may_go))
    if number == len(model) or (sparsity and not number):
        nearest = min(max(number, 1), len(model) - 1)
        raise SteppeError(
            "one block at least goes, and one at least stays",
            got=f"sparsity {sparsity:g} of {len(may_go)} blocks, which is {number}",
            way_out=f"--sparsity {nearest / len(may_go):.3f} for {nearest}"
            if nearest
            else "another structure",
        )
    return may_go, number


@CHECKS.register("blocks")
def check(prepared: PreparedPruning) -> None:
    """Whether a model without so many blocks can be, and be tried out; no folder was made yet.

    Raises:
        SteppeError: it cannot.
    """
    model, config = prepared.model, prepared.config
    if config.recover:
        raise SteppeError(
            "what is recovered has zeros that are kept",
            got="--recover with structure layers, of which no zero is left",
            way_out="leave it out; what comes out trains as any model of transformers",
        )
    if "," in model.prefix or not model.predicts:
        raise SteppeError(
            "blocks are removed from models of one list of blocks that predict each next token",
            got=f"{type(model.model).__name__} with blocks in {model.prefix}",
            way_out="--structure neurons",
        )
    may_go, number = _asked(prepared)
    if not number:
        return
    kinds = kinds_of(model.model, may_go)
    some = {name for kind in kinds for name in (kind[0], kind[-1])} if kinds[1:] else may_go[:1]
    for name in (name for name in may_go if name in some):
        stay = tuple(other for other in model.names if other != name)
        try:
            configured(model, Cut({}, stay), config.family)
        except SteppeError as error:
            raise SteppeError(
                error.rule,
                got=f"{error.got}, without {name}",
                way_out=f"--exclude '{name}.*', so that it stays; or --structure neurons",
            ) from None
    memory.decide(prepared, prepared.texts())
    if not model.chained:
        assert model.verdict is not None, "it was decided"
        raise SteppeError(
            "blocks are left out of models in which only hidden states go from block to block",
            got=model.verdict.reason or "a model that is called whole",
            way_out="--structure neurons",
        )
