"""A pretrained language model, pruned block by block into a new folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm import pruning_run
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.prune_config import PruneConfig
from steppe.llm.recover import prune_and_recover
from steppe.llm.structured.slim import check_cut, prune_and_cut
from steppe.method import Method


def prune(
    model: str | Path,
    method: Method,
    calibration: str | Path | Tensor | None = None,
    out: str | Path = "pruned",
    *,
    report: Report = lambda row: None,
    **options: Any,
) -> dict[str, Any]:
    """Prune any Hugging Face causal language model; started again, it goes on where it was.

    One block is in memory at a time, so the model may be larger than memory. The result is a
    folder that plain transformers loads, with exact zeros, masks and a record beside it.

    Args:
        model: a folder, or a hub id.
        method: e.g. ``steppe.methods.safe_plus(sparsity=0.5)``; methods for a training loop take
            their settings for language models.
        calibration: text file, folder, dataset id, or token ids ``[samples, window]``.
        out: the new folder.
        report: called with each block's row of the record.
        options: any other field of `steppe.llm.prune_config.PruneConfig`: ``samples`` (128) and
            ``window`` of the calibration, ``evaluate`` (texts on which perplexity is measured,
            dense and sparse), ``evaluate_window``, ``reconstruction`` (how SAFE and ADMM optimise
            a block, e.g. ``{"epochs": 30}``), ``precision``, ``micro_batch``, ``measure``,
            ``include``, ``exclude``, ``regrow`` (weights that are zero already may come back; else
            they stay zero and count as pruned), ``recover`` (then train what is left, as
            `steppe.recover` does), ``streamed`` (auto, always one block at a time, or
            never: the whole model in memory), ``seed``, ``device``.

    Returns:
        The record, as in ``record.json``.

    Raises:
        SteppeError: the model, the text, the method and the folder do not fit each other, or an
            option is not known.

    Source: SAFE (ICML 2025), section 4.2; SparseGPT, Wanda, ALPS for the walk over the blocks.
    """
    config = PruneConfig.of(calibration=calibration, out=out, **options)
    return run(PreparedPruning(model, method, config), report)


def run(prepared: PreparedPruning, report: Report = lambda row: None) -> dict[str, Any]:
    """Prune what is ready, and recover it if that was asked for.

    Args:
        prepared: what to prune and how.
        report: called with each block's row of the record.

    Returns:
        The record.

    Raises:
        SteppeError: an option has no effect, and all that either raises.
    """
    structure = prepared.method.structure
    if structure.removes is not None:
        if not prepared.config.recover:
            return prune_and_cut(prepared, report)
        return prune_and_recover(prepared, report, prune_and_cut, check_cut)
    if prepared.config.family is not None:
        raise SteppeError(
            "a model is written as another family when something is cut out of it",
            got=f"--family {prepared.config.family} with structure {structure.name}",
            way_out="leave --family out, or --structure neurons+heads",
        )
    does = prune_and_recover if prepared.config.recover else pruning_run.run
    return does(prepared, report)
