"""Blocks, neurons and heads that go together: weighed by what held-out windows lose."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.text import counted as in_words
from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.mask_keeper import read_masks
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.said import left_as_it_was
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.choices.blocks import check_removable
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.cut import Cut, configured
from steppe.llm.structured.depth import passing_by
from steppe.llm.structured.fresh_record import FreshRecord
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.weighing import (
    JOURNAL,
    Weighing,
    masks_of,
    offers,
    structure_of,
    windows_of,
)
from steppe.llm.structured.weighing_work import counted, seconds_of_work

KIND = "depth and width"


@DONE.register(KIND)
def done_before(out: Path) -> str:
    """How many models were measured in a folder."""
    journal = Journal(out / "checkpoints" / JOURNAL)
    losses, rounds = len(journal.get("losses", {})), len(journal.get("depth", []))
    said = [f"{in_words(rounds, 'round')} of blocks"] * bool(rounds)
    said += [in_words(losses, "model")] * bool(losses)
    return f"measured before: {' and '.join(said)}" if said else ""


@CHECKS.register(KIND)
def check(prepared: PreparedPruning) -> None:
    """Whether there are such shapes, and windows to judge them by; no folder was made yet.

    Raises:
        SteppeError: there are none.
    """
    config, model = prepared.config, prepared.model
    if config.include or config.exclude:
        raise SteppeError(
            "blocks that all lose as many neurons and heads are all looked at",
            got=f"patterns {', '.join((*config.include, *config.exclude))}",
            way_out="leave them out; or --method depth with them, and slim afterwards",
        )
    if prepared.tokens is None or len(prepared.tokens) < 2:
        raise SteppeError(
            "depth and width are weighed on calibration windows that are held out",
            got="none" if prepared.tokens is None else "one window",
            way_out="--calibration FILE and more --samples",
        )
    found = offers(prepared)
    ends = {end(shape.neurons for shape in found) for end in (min, max)}
    # a config says any number of neurons in the same way; each trial makes a whole skeleton
    tried = {shape.neurons for shape in found} if structure_of(prepared).shapes else ends
    seen = set[tuple[str, int]]()
    for shape in found:  # how a config says neurons is the same for any number of heads
        widths = {("heads", shape.heads)}
        widths |= {("neurons", shape.neurons)} if shape.neurons in tried else set()
        if not widths <= seen:
            _check_widths(prepared, shape)
        seen |= widths
    units = "+".join(structure_of(prepared).of)
    numbers = sorted({len(model) - shape.blocks for shape in found} - {0})
    keep = "--method depth, and slim afterwards, with --exclude"
    check_removable(prepared, model.names, numbers, f"--structure {units}", keep)


def _check_widths(prepared: PreparedPruning, shape: Shape) -> None:
    """Whether a config says as many neurons and heads, on the model without weights.

    Raises:
        SteppeError: none does.
    """
    cut = Cut(masks_of(prepared, shape), tuple(prepared.model.names))
    try:
        configured(prepared.model, cut, prepared.config.family)
    except SteppeError as error:
        if not structure_of(prepared).shapes:
            raise
        ways = error.way_out.replace("another --sparsity", "other shapes")
        raise SteppeError(error.rule, got=error.got, way_out=ways) from None


@EXPECTATIONS.register(KIND)
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """What is done is counted; one block is called on trial, and one is pruned."""
    found, model = offers(prepared), prepared.model
    work, (fit, held_out, _) = counted(prepared, found), windows_of(prepared)
    windows = len(fit) + len(held_out)
    largest = max(found, key=lambda shape: shape.parameters)
    one = len(found) == 1
    steps = [
        f"which of {len(found)} shapes it will be, the run finds out, on {len(held_out)} windows "
        f"that are held out of {windows}"
        if not one
        else "one shape is offered, so it is known; what goes, calibration tells",
        f"blocks are tried out in {work.rounds} round{'s' * (work.rounds != 1)}, with "
        f"{work.passes} passes of one window through a block; the model is pruned at "
        f"{work.widths} widths with all blocks, and to {'' if one else 'at most '}{work.shapes} "
        f"shape{'s' * (work.shapes != 1)}, each time on {len(fit)} windows",
        f"the best one is pruned on all {windows}, then cut out",
    ]
    return Expected(
        cut=Cut(masks_of(prepared, largest), tuple(model.names[: largest.blocks])),
        offers=tuple(found),
        seconds=seconds_of_work(prepared, found, texts) if dry_run else {},
        steps=steps,
    )


@CHOOSERS.register(KIND)
def weighed(prepared: PreparedPruning, report: Report) -> Choice:
    """Measure what depth and widths cost, try the best shapes, prune to the best one.

    Raises:
        SteppeError: all that pruning raises.
    """
    measured, model = FreshRecord(prepared, prepared.texts()), prepared.model
    weighing = Weighing(prepared, measured.keep_time)
    with measured.counted("weigh"):
        best = weighing.best()
    gone = weighing.gone(best)
    said = {"weighed": weighing.said(best)} | _sparsity(prepared, best)
    if best == weighing.whole.resized(blocks=best.blocks):
        weighing.clear()
        cut = Cut({}, tuple(n for n in model.names if n not in gone))
        record = measured.of([], weighing.notes, **said)
        without = partial(passing_by, names=gone)
        return Choice(cut=cut, source=model.folder, record=record, without=without)
    folder, tokens = prepared.out / MASKED, prepared.tokens
    assert tokens is not None, "it was checked"
    inner = weighing.pruning(best, tokens, folder)
    walked = pruning_run.run(inner, report)
    ranks.barrier()  # all have opened the shorter model
    weighing.clear()
    usual = left_as_it_was(inner.model, folder)
    notes = [note for note in walked["fallbacks"] if note not in usual]
    record = measured.of(walked["blocks"], [*weighing.notes, *notes], **said)
    source = StreamedModel(str(folder), prepared.device)
    masks = read_masks(folder)
    readers = [layer for layer in source.layers() if layer.name in masks]
    stay = {layer.name: int(getattr(best, layer.reads)) for layer in readers}
    cut = Cut.of(source, masks, stay)
    return Choice(cut=cut, source=folder, record=record, gone=tuple(gone))


def _sparsity(prepared: PreparedPruning, best: Shape) -> dict[str, float]:
    """What of the blocks' weights is gone, and what of all."""
    whole = Shape.of(prepared.model.config)
    inside = best.blocks * best.block / (whole.blocks * whole.block)
    return {
        "sparsity_reached": 1 - inside,
        "sparsity_of_all": 1 - best.parameters / whole.parameters,
    }
