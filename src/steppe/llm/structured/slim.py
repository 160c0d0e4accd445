"""A language model from which something is really gone: chosen, cut out, checked."""

from __future__ import annotations

import contextlib
import shutil
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.run_folder import RunFolder
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.said import quality_of
from steppe.llm.self_check import sample_texts
from steppe.llm.stream import answer
from steppe.llm.structured.choice import CHECKS, CHOOSERS, Choice
from steppe.llm.structured.choices.units import BIASED, MASKED
from steppe.llm.structured.cut import cut

AGREE = 1e-4
"""The largest difference between masked and cut, relative to the largest number."""


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
    out = prepared.out
    folder = RunFolder(out, prepared.recipe, prepared.as_today)
    if folder.record is not None:
        pruning_run.check_whole(out)
        return folder.record
    check_cut(prepared)
    texts = prepared.texts()
    choose = CHOOSERS[str(prepared.method.structure.removes)]
    with contextlib.ExitStack() as claimed:
        if ranks.first():
            folder.claim()
            claimed.enter_context(folder.alone())
        ranks.barrier()
        choice = choose(prepared, report)
        if ranks.first():
            source = StreamedModel(str(choice.source), prepared.device)
            cut(source, choice.cut, out, prepared.config.family)
        ranks.barrier()
        agreement = compared(choice, out, prepared.device)
        record = _completed(choice, prepared, agreement, texts)
        if ranks.first():
            folder.finish_record(record)
            for way in (MASKED, BIASED):
                shutil.rmtree(out / way, ignore_errors=True)
        ranks.barrier()
    return record


def check_cut(prepared: PreparedPruning) -> None:
    """Whether what is asked for can be; no folder was made yet.

    Raises:
        SteppeError: it cannot.
    """
    prepared.check_layers()
    kind = prepared.method.structure.removes
    assert kind is not None, "such methods are pruned as others"
    if kind in CHECKS:
        CHECKS[kind](prepared)


@torch.no_grad()
def compared(choice: Choice, slim: Path, device: str) -> float:
    """Largest difference of the logits before and after the cut, relative to the largest.

    Both in float32.

    Raises:
        AssertionError: they differ by more than rounding.
    """
    texts, logits = None, []
    for path, without in ((choice.source, choice.without), (slim, None)):
        model = StreamedModel(str(path), device)
        texts = sample_texts(model, 16)[0] if texts is None else texts
        model.decide(texts.shape[1])
        with without(model) if without is not None else nullcontext():
            logits.append(_logits(model, texts))
        model.free_rest()
    error = float((logits[0] - logits[1]).abs().max() / logits[0].abs().max())
    assert error <= AGREE, f"{slim} differs from what was cut by {error:.1e}"
    return error


def _logits(model: StreamedModel, tokens: torch.Tensor) -> torch.Tensor:
    if not model.chained:
        return answer(model.run(tokens)).float().cpu()
    state = model.inputs(0, tokens)
    for index in range(len(model)):
        model.load(index)
        state = model.call(index, state)
        model.free(index)
    return model.logits(tokens, state).float().cpu()


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
    return record | {
        "recipe": prepared.recipe,
        "sparse": sparse,
        "removed": removed,
        "gain": gain,
    }
