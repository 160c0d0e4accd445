"""A language model from which something is really gone: chosen, cut out, checked."""

from __future__ import annotations

import contextlib
import shutil
import time
from pathlib import Path
from typing import Any

import torch

from steppe.core.errors import SteppeError
from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.host_memory import mapped
from steppe.engine.run_folder import RunFolder
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.recover import PRUNED
from steppe.llm.said import quality_of
from steppe.llm.structured.agreement import compared
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, Choice
from steppe.llm.structured.choices.units import BIASED, MASKED
from steppe.llm.structured.cut import cut


def prune_and_cut(prepared: PreparedPruning, report: Report = lambda row: None) -> dict[str, Any]:
    """Find what goes, cut it out, check the result; each step goes on where it was.

    Args:
        prepared: the pruning; its folder is that of the result.
        report: called with each block's row of the record.

    Returns:
        The record.

    Raises:
        SteppeError: no config says the new shapes, and all that pruning raises.
    """
    with mapped():  # what is read block by block goes again
        return _run(prepared, report)


def _run(prepared: PreparedPruning, report: Report) -> dict[str, Any]:
    folder = RunFolder(prepared.out, prepared.recipe, prepared.as_today)
    if folder.record is not None:
        pruning_run.check_whole(prepared.out)
        _clean(prepared.out)  # a run may have been killed between its record and this
        return folder.record
    ranks.barrier()  # all have looked before the first one writes
    check_cut(prepared)
    texts = prepared.texts()
    if folder.stored is None:  # what cannot be is found before a folder is begun
        prepared.check_finite()
    choose = CHOOSERS[str(prepared.method.structure.removes)]
    with contextlib.ExitStack() as claimed:
        if ranks.first():
            folder.claim()
            claimed.enter_context(folder.alone())
        ranks.barrier()
        record = _cut(prepared, choose(prepared, report), texts)
        if ranks.first():
            folder.finish_record(record)
        _clean(prepared.out)
    return record


def check_cut(prepared: PreparedPruning) -> None:
    """Whether what is asked for can be; no folder was made yet.

    Raises:
        SteppeError: it cannot.
    """
    prepared.check_layers()
    structure = prepared.method.structure
    kind = structure.removes
    assert kind is not None, "such methods are pruned as others"
    if prepared.config.regrow and not structure.whole_inputs:
        raise SteppeError(
            "weights that are zero come back where weights are fitted",
            got=f"--regrow with structure {structure.name}, where what stays is as it was",
            way_out="leave it out",
        )
    if kind in CHECKS:
        CHECKS[kind](prepared)


def _cut(
    prepared: PreparedPruning, choice: Choice, texts: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """What was chosen cut out, and the result checked; its record."""
    began = time.time()
    if ranks.first():
        source = StreamedModel(str(choice.source), prepared.device)
        cut(source, choice.cut, prepared.out, prepared.config.family)
    ranks.barrier()
    agreement = compared(choice, prepared.out, prepared.device)
    record = _completed(choice, prepared, agreement, texts)
    return record | {"seconds": round(record["seconds"] + time.time() - began, 3)}


def _clean(out: Path) -> None:
    """Nothing that was for the way is left in a folder that has its record."""
    ranks.barrier()
    if ranks.first():
        for way in (MASKED, BIASED):
            shutil.rmtree(out / way, ignore_errors=True)
    ranks.barrier()


def done_before(prepared: PreparedPruning) -> str:
    """What of a removal was done in its folder before, in words; "" where it begins anew."""
    kind, recovers = prepared.method.structure.removes, prepared.config.recover
    where = prepared.out / PRUNED if recovers else prepared.out
    said = DONE[kind](where) if kind is not None and kind in DONE else ""
    journal = Journal(prepared.out / "checkpoints" / "journal.json")
    recovered = len(journal.get("blocks", [])) if recovers else 0
    return ", and ".join([said] * bool(said) + [f"{recovered} recovered"] * bool(recovered))


def _completed(
    choice: Choice, prepared: PreparedPruning, agreement: float, texts: dict[str, torch.Tensor]
) -> dict[str, Any]:
    """The record of the choice, with what is true of the folder."""
    slim, record = StreamedModel(str(prepared.out), prepared.device), choice.record
    nonzero = slim.checkpoint.check_finite()
    sizes = {
        "parameters": slim.parameters(),
        "nonzero": sum(nonzero[key] for key in slim.stored_keys()),
        "bytes": slim.checkpoint.bytes,
    }
    sparse = {k: v for k, v in record["sparse"].items() if k != "bytes_packed"} | sizes
    if texts and "texts" not in sparse:
        journal = Journal(prepared.out / "checkpoints" / "job.json")
        sparse |= quality_of(pruning_run.perplexities(prepared, journal, "sparse", texts))
    dense = record["dense"]
    share = 1 - sizes["parameters"] / dense["parameters"]
    gain = (
        f"Gain: {share:.1%} of the parameters are gone ({dense['bytes']:,} -> "
        f"{sizes['bytes']:,} bytes), wherever the model runs; steppe bench times it"
    )
    kept = {n: [int(k.sum()), k.numel()] for n, k in choice.cut.kept.items()}
    removed = {
        "blocks": [n for n in prepared.model.names if n in choice.gone]
        if choice.gone
        else [n for n in prepared.model.names if n not in choice.cut.blocks],
        "units": kept,
        "experts": {n: [int(k.sum()), k.numel()] for n, k in choice.cut.experts.items()},
        "agreement": agreement,
    }
    if choice.cut.hidden is not None:
        removed["hidden"] = [int(choice.cut.hidden.sum()), choice.cut.hidden.numel()]
    gone = 1 - _in_blocks(slim) / _in_blocks(prepared.model)
    return record | {
        "recipe": prepared.recipe,
        "sparsity_asked": gone,  # shapes are exact: no more and no less goes
        "sparsity_reached": gone,
        "sparsity_of_all": share,
        "sparse": sparse,
        "removed": removed,
        "gain": gain,
        "fallbacks": [*record["fallbacks"], *_left_behind(slim)],
    }


def _in_blocks(model: StreamedModel) -> int:
    """Parameters of the decoder blocks; what is tied counts once."""
    return sum({id(p): p.numel() for p in model.blocks.parameters()}.values())


def _left_behind(model: StreamedModel) -> list[str]:
    """A sentence on each thing that is no part of the model and so was not cut with it."""
    return [
        f"{what}: no part of the model as transformers runs it, so copied with the sizes from "
        "before the cut, of which its config no longer speaks; what runs it (a draft of further "
        "tokens, MTP) must leave it out"
        for what in model.unused()
    ]
