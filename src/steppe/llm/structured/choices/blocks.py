"""Decoder blocks that go: tried out on calibration windows, one block in memory at a time."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import BlockBudget
from steppe.core.text import counted
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import advanced
from steppe.llm import memory
from steppe.llm.model import StreamedModel
from steppe.llm.plan_trial import called_block, evaluation
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.block_trials import CountedTrials, StreamedTrials
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.cut import Cut, configured
from steppe.llm.structured.depth import kinds_of, may_go, passing_by
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
    with measured.counted("rank"):
        rounds = _chosen(prepared, measured.keep_time)
    gone = [name for row in rounds for name in row["blocks"]]
    model.free_rest()
    passed_over = [note for row in rounds for note in row.get("passed_over", [])]
    record = measured.of([], passed_over, rounds=rounds)
    cut = Cut({}, tuple(name for name in model.names if name not in gone))
    without = partial(passing_by, names=gone)
    return Choice(cut=cut, source=model.folder, record=record, without=without)


def _chosen(prepared: PreparedPruning, kept: Callable[[], None]) -> list[dict[str, Any]]:
    """The rounds: each says which blocks went, and what each that could go was rated."""
    budget, (candidates, number) = _budget(prepared), _asked(prepared)
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
        candidates,
        watch,
    )
    for row in rounds:
        for name in row["blocks"]:
            trials.remove(name)
    while len(rounds) < of:
        began = time.perf_counter()
        gone = [name for row in rounds for name in row["blocks"]]
        last = len(rounds) + 1 == of
        going, rated, passed_over = _round(prepared, trials, number, gone if last else None)
        seconds = round(time.perf_counter() - began, 4)
        row = {"blocks": going, "rated": rated, "seconds": seconds}
        rounds.append(row | ({"passed_over": passed_over} if passed_over else {}))
        journal.put(rounds=rounds)
        kept()
    return rounds


def _rounds(budget: BlockBudget, number: int) -> int:
    """How often the blocks are looked at until so many are gone."""
    return number if budget.greedy else min(number, 1)


def _round(
    prepared: PreparedPruning,
    trials: StreamedTrials | CountedTrials,
    number: int,
    gone: list[str] | None,
) -> tuple[list[str], dict[str, float], list[str]]:
    """The blocks that go next, which then are gone.

    Args:
        prepared: the pruning.
        trials: of the blocks that are there still.
        number: of blocks that go in all.
        gone: before this round, where it is the last one: what is left is what is written.

    Returns:
        The blocks, what each that could go was rated, and a sentence for each passed over.
    """
    budget = _budget(prepared)
    rated = budget.rated(trials)
    lowest = sorted(rated, key=lambda name: rated[name])  # of equals the first
    taken = 1 if budget.greedy else number
    going, passed_over = lowest[:taken], list[str]()
    if gone is not None:
        going, passed_over = with_a_config(prepared, gone, lowest, taken)
        if not going:
            raise _no_config(
                prepared.model, passed_over[0], taken + len(gone), "--structure neurons"
            )
    for name in going:
        trials.remove(name)
    return going, rated, passed_over


@EXPECTATIONS.register("blocks")
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """The passes through blocks are counted; one block is called on trial, none is left out."""
    budget, model, (candidates, number) = _budget(prepared), prepared.model, _asked(prepared)
    parameters = {
        n: sum(p.numel() for p in model.model.get_submodule(n).parameters()) for n in candidates
    }
    gone = sorted(candidates, key=lambda name: parameters[name])[:number]
    trials = CountedTrials(model.names, candidates)
    for _ in range(of := _rounds(budget, number)):
        _round(prepared, trials, number, None)
    windows, stay = len(_windows(prepared)), tuple(n for n in model.names if n not in gone)
    seconds: dict[str, float] = {}
    if dry_run:
        taken = called_block(prepared)
        seconds = {
            "load": taken["load"] * trials.loads,
            "passes": taken["pass"] * windows * trials.passes,
            "losses": taken["head"] * windows * trials.heads,
            "cut": (taken["load"] + taken["write"]) * len(stay),
        }
        seconds |= evaluation(prepared, texts, taken["pass"], taken["load"])
    steps = [
        f"found in {of} round{'s' * (of != 1)}: {trials.passes} passes of {windows} windows "
        "through a block in all"
    ]
    return Expected(
        cut=Cut({}, stay),
        at_most=len(set(parameters.values())) > 1,
        seconds=seconds,
        steps=steps,
    )


def with_a_config(
    prepared: PreparedPruning, gone: list[str], lowest: list[str], number: int
) -> tuple[list[str], list[str]]:
    """The lowest so many, the last of them the lowest with which a config says what is left.

    Args:
        prepared: the pruning.
        gone: blocks that are gone already.
        lowest: the others that may go, what is to go first in front.
        number: how many go.

    Returns:
        The blocks, none if no last one will do, and a sentence for each that was passed over.
    """
    sure, passed_over = lowest[: number - 1], list[str]()
    for name in lowest[number - 1 :]:
        refusal = _refusal(prepared, [*gone, *sure, name])
        if not refusal:
            return [*sure, name], passed_over
        passed_over.append(f"{name} stays, though it was the next to go: {refusal}")
    return [], passed_over


def _some(candidates: list[str], number: int) -> Iterator[list[str]]:
    """So many neighbours, from the end to the front: a pattern of types goes on without them."""
    for first in range(len(candidates) - number, -1, -1):
        yield candidates[first : first + number]


def _no_config(model: StreamedModel, reason: str, number: int, instead: str) -> SteppeError:
    return SteppeError(
        "a model is loadable by plain from_pretrained when its config says all its shapes",
        got=f"{reason}, where {number} of {len(model)} blocks go",
        way_out=f"another number of blocks; or {instead}",
    )


def _refusal(prepared: PreparedPruning, gone: list[str]) -> str:
    """Why no config says a model without some blocks; "" where one does."""
    stay = tuple(name for name in prepared.model.names if name not in gone)
    try:
        configured(prepared.model, Cut({}, stay), prepared.config.family)
    except SteppeError as error:
        return str(error.got)
    return ""


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
    candidates = may_go(model, config.include, config.exclude)
    sparsity = prepared.method.sparsity
    number = round(sparsity * len(candidates))
    if number == len(model) or (sparsity and not number):
        nearest = min(max(number, 1), len(model) - 1)
        raise SteppeError(
            "one block at least goes, and one at least stays",
            got=f"sparsity {sparsity:g} of {len(candidates)} blocks, which is {number}",
            way_out=f"--sparsity {nearest / len(candidates):.3f} for {nearest}"
            if nearest
            else "another structure",
        )
    return candidates, number


@DONE.register("blocks")
def done_before(out: Path) -> str:
    """How many rounds were done in a folder."""
    rounds = len(Journal(out / "checkpoints" / JOURNAL).get("rounds", []))
    return f"done before: {counted(rounds, 'round')} of trials" if rounds else ""


@CHECKS.register("blocks")
def check(prepared: PreparedPruning) -> None:
    """Whether a model without so many blocks can be, and be tried out; no folder was made yet.

    Raises:
        SteppeError: it cannot.
    """
    candidates, number = _asked(prepared)
    if number:
        check_removable(prepared, candidates, [number], "--structure neurons")


def check_removable(
    prepared: PreparedPruning,
    candidates: list[str],
    numbers: Iterable[int],
    instead: str,
    keep: str = "--exclude",
) -> None:
    """Whether a model without some of these blocks can be, and be tried out.

    Args:
        prepared: the pruning.
        candidates: names of the blocks.
        numbers: how many of them may go.
        instead: what is possible if not.
        keep: what leaves out a block that is named behind it.

    Raises:
        SteppeError: it cannot.
    """
    model = prepared.model
    if "," in model.prefix or not model.predicts:
        raise SteppeError(
            "blocks are removed from models of one list of blocks that predict each next token",
            got=f"{type(model.model).__name__} with blocks in {model.prefix}",
            way_out=instead,
        )
    kinds = kinds_of(model.model, candidates)
    some = {name for kind in kinds for name in (kind[0], kind[-1])} if kinds[1:] else candidates[:1]
    for name in (name for name in candidates if name in some):
        if refusal := _refusal(prepared, [name]):
            raise SteppeError(
                "a model is loadable by plain from_pretrained when its config says all its shapes",
                got=f"{refusal}, without {name}",
                way_out=f"{keep} '{name}.*', so that it stays; or {instead}",
            )
    for number in numbers:
        refusal = ""
        for gone in _some(candidates, number):
            refusal = _refusal(prepared, gone)
            if not refusal:
                break
        if refusal:
            raise _no_config(model, refusal, number, instead)
    memory.decide(prepared, prepared.texts())
    if not model.chained:
        assert model.verdict is not None, "it was decided"
        raise SteppeError(
            "blocks are left out of models in which only hidden states go from block to block",
            got=model.verdict.reason or "a model that is called whole",
            way_out=instead,
        )
