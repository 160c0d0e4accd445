"""Dimensions of the residual stream that go: ranked in one walk, made up for in another."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import STACKED
from steppe.core.protocols import StreamSolver
from steppe.core.text import counted
from steppe.engine import ranks
from steppe.engine.blockwise.journal import DONE_BEFORE, Journal
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.host_memory import reused
from steppe.llm import memory
from steppe.llm.checkpoint import INDEX
from steppe.llm.model import StreamedModel
from steppe.llm.plan_trial import beside, called_block, evaluation
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.cut import Cut, configured, stream_of
from steppe.llm.structured.dimension_ranking import rank
from steppe.llm.structured.dimension_removal import Removal
from steppe.llm.structured.fresh_record import FreshRecord
from steppe.llm.structured.narrow import narrow
from steppe.llm.structured.residual import ResidualStream
from steppe.llm.structured.stream_states import begun

JOURNAL = "hidden.json"


@DONE.register("hidden")
def done_before(out: Path) -> str:
    """How many blocks were written in a folder, or what was ranked in it."""
    journal = Journal(out / "checkpoints" / JOURNAL)
    if blocks := len(journal.get("blocks", [])):
        return f"done before: {counted(blocks, 'block')}"
    if journal.get("kept") is not None:
        return "the dimensions were ranked before"
    ranked = journal.get("ranked", 0)
    return f"what {ranked} blocks give was ranked before" if ranked else ""


@CHOOSERS.register("hidden")
def narrowed(prepared: PreparedPruning, report: Report) -> Choice:
    """Rank the dimensions in the dense model, then write it with zeros where some are gone.

    Each walk goes on where it was.

    Raises:
        SteppeError: a weight is no number, and all that measuring raises.
    """
    model, folder = prepared.model, prepared.out / MASKED
    measured, (stream, lost) = FreshRecord(prepared, prepared.texts()), _asked(prepared)
    journal = Journal(prepared.out / "checkpoints" / JOURNAL)
    dense = states = None
    if prepared.tokens is not None and prepared.needs_text:
        given = (model, prepared.tokens, journal.path.parent, prepared.config.micro_batch)
        dense, states = HiddenStates(*given, name="dense"), HiddenStates(*given)
    with reused():
        if journal.get("kept") is None:
            with measured.counted("rank"):
                rank(model, prepared.method, stream, lost, dense, journal, measured.keep_time)
        kept = torch.zeros(stream.group.units, dtype=torch.bool)
        kept[journal.get("kept")] = True
        rows: list[dict[str, Any]] = list(journal.get("blocks", []))
        notes: list[str] = list(journal.get("notes", []))
        for row in rows:
            report(row | {DONE_BEFORE: True})
        if not (folder / INDEX).is_file():
            coupling = _coupling(prepared)
            removal = Removal(model, coupling, stream, kept, folder, dense, states, notes.append)
            if coupling.looks:
                assert dense is not None, "it needs text, which was checked"
                assert states is not None, "it needs text, which was checked"
                begun(model, dense, len(rows))
                begun(model, states, len(rows), kept)
            for index in range(len(rows), len(model)):
                rows.append(removal.block(index))
                journal.put(blocks=rows, notes=notes)
                measured.keep_time()
                report(rows[-1])
            with measured.counted("outside"):
                removal.rest(lambda factor: journal.put(last_norm=factor))
    if ranks.first():
        for path in journal.path.parent.glob("*.bin"):
            path.unlink()
    ranks.barrier()
    model.free_rest()

    def without(source: StreamedModel) -> contextlib.AbstractContextManager[None]:
        return narrow(source.model, stream.norms, kept, stream.scales)

    cut = Cut({}, tuple(model.names), hidden=kept)
    record = measured.of(rows, notes, **_said(model, stream, kept, journal))
    return Choice(cut=cut, source=folder, record=record, without=without)


@EXPECTATIONS.register("hidden")
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """The first block is called, and written without the dimensions that come first."""
    (stream, lost), model = _asked(prepared), prepared.model
    kept = torch.arange(stream.group.units) >= lost
    ranked, looks = bool(prepared.method.score.needs), _coupling(prepared).looks
    windows = 0 if prepared.tokens is None else len(prepared.tokens)
    walk = f"one walk over {len(model)} blocks with {windows} windows"
    steps = [
        f"dimensions are ranked in {walk}" if ranked else "dimensions are ranked without text",
        f"they go in {walk}, in which the rest is fitted" if looks else "what stays is as it was",
        "then they are cut out",
    ]
    seconds: dict[str, float] = {}
    if dry_run:
        taken, row = called_block(prepared), _tried(prepared, stream, kept)
        blocks, part = len(model), row["seconds"]
        seconds = {"load": (part["load"] + ranked * taken["load"]) * blocks}
        if ranked:
            seconds["rank"] = taken["pass"] * windows * blocks
        if looks:
            each = windows * blocks / _some(prepared)
            seconds |= {key: part[key] * each for key in ("calibrate", "propagate")}
        seconds |= {key: part[key] * blocks for key in ("prune", "write")}
        seconds["cut"] = (taken["load"] + taken["write"]) * blocks
        seconds |= evaluation(prepared, texts, taken.get("pass", 0.0), taken["load"])
    cut = Cut({}, tuple(model.names), hidden=kept)
    return Expected(cut=cut, seconds=seconds, steps=steps)


def _tried(prepared: PreparedPruning, stream: ResidualStream, kept: Tensor) -> dict[str, Any]:
    """The first block's row of the record, with one batch of windows."""
    model, coupling = prepared.model, _coupling(prepared)
    with beside(prepared.out) as folder:
        dense = states = None
        if coupling.looks:
            assert prepared.tokens is not None, "it needs text, which was checked"
            given = (model, prepared.tokens[: _some(prepared)], folder, prepared.config.micro_batch)
            dense, states = HiddenStates(*given, name="dense"), HiddenStates(*given)
            begun(model, dense, 0)
            begun(model, states, 0, kept)
        removal = Removal(model, coupling, stream, kept, folder, dense, states, lambda note: None)
        row = removal.block(0)
    model.free_rest()
    return row


def _some(prepared: PreparedPruning) -> int:
    """Windows on trial."""
    assert prepared.tokens is not None, "it needs text, which was checked"
    return min(prepared.config.micro_batch, len(prepared.tokens))


def _said(
    model: StreamedModel, stream: ResidualStream, kept: Tensor, journal: Journal
) -> dict[str, Any]:
    """What the record says of the dimensions, and what is left of all parameters."""
    lies_in = {s.name for s in stream.group.slices}
    named = dict(model.model.named_parameters(remove_duplicate=False))
    stay, of = int(kept.sum()), kept.numel()
    stored = {n: named[n].numel() for n in model.stored_names(named)}
    left = sum(n * stay // of if name in lies_in else n for name, n in stored.items())
    return {
        "sparsity_reached": 1 - stay / of,
        "sparsity_of_all": 1 - left / sum(stored.values()),
        "hidden": {name: journal.get(name) for name in ("kept", "scores", "last_norm")},
    }


def _coupling(prepared: PreparedPruning) -> StreamSolver:
    coupling = prepared.method.coupling
    assert isinstance(coupling, StreamSolver), "structure hidden takes no other"
    return coupling


def _asked(prepared: PreparedPruning) -> tuple[ResidualStream, int]:
    """The stream, and how many of its dimensions go.

    Raises:
        SteppeError: none goes, or no config says the new width.
    """
    method, model = prepared.method, prepared.model
    width = model.hidden_size
    stacked = STACKED if any(x.stacked for x in model.layers()) else 1
    stays = method.structure.stays(width, method.sparsity, stacked)
    if stays == width:
        multiple = lcm(method.structure.to_dict()["round_to"], stacked)
        raise SteppeError(
            "one dimension of the residual stream at least goes",
            got=f"sparsity {method.sparsity:g} of {width} dimensions, in multiples of {multiple}",
            way_out=f"--sparsity {multiple / width:g}",
        )
    kept = torch.arange(width) < stays
    return stream_of(model, kept, prepared.config.family), width - stays


@CHECKS.register("hidden")
def check(prepared: PreparedPruning) -> None:
    """Whether a config can say the new width, and text can go from block to block.

    Raises:
        SteppeError: it cannot.
    """
    model, config = prepared.model, prepared.config
    if config.recover:
        raise SteppeError(
            "blocks are led back to hidden states of the dense model, of the same width",
            got="--recover with structure hidden, which makes them narrower",
            way_out="leave it out, and recover the result: steppe recover OUT --scope whole",
        )
    if config.include or config.exclude:
        raise SteppeError(
            "dimensions of the residual stream go from all that lies in it",
            got=f"a pattern, {next(iter((*config.include, *config.exclude)))!r}",
            way_out="no pattern; or structure neurons, of which some layers may stay whole",
        )
    if "," in model.prefix or not model.predicts:
        raise SteppeError(
            "dimensions are removed from models of one list of blocks that predict each next token",
            got=f"{type(model.model).__name__} with blocks in {model.prefix}",
            way_out="--structure neurons",
        )
    if beside := model.unused():
        raise SteppeError(
            "dimensions of the residual stream go from all that lies in it",
            got=f"{beside[0]} in the checkpoint but not in the model",
            consequence="it would keep its old width",
            way_out="from_pretrained and save_pretrained of transformers, which leave it out; or "
            "--structure neurons",
        )
    stream, lost = _asked(prepared)
    kept = torch.arange(stream.group.units) < stream.group.units - lost
    configured(model, Cut({}, tuple(model.names), hidden=kept), config.family)
    memory.decide(prepared, prepared.texts())
    if not model.chained:
        assert model.verdict is not None, "it was decided"
        raise SteppeError(
            "dimensions go from models in which only hidden states go from block to block",
            got=model.verdict.reason or "a model that is called whole",
            way_out="--structure neurons",
        )
