"""The Python twin of ``steppe recover``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.experiment.recovery import SCOPES
from steppe.llm.prepare import Report
from steppe.llm.recover_config import RecoverConfig


def recover(
    folder: str | Path,
    calibration: str | Path | Tensor | None = None,
    out: str | Path = "recovered",
    *,
    report: Report = lambda row: None,
    **options: Any,
) -> dict[str, Any]:
    """Train what a pruned language model has left; started again, it goes on where it was.

    With scope ``blocks`` attention and then feed-forward of each block are trained towards the
    hidden states of the dense model, from those of the recovered one; one block of each is in
    memory at a time, and a part that windows held out do not show to be better keeps its weights.
    With scope ``whole`` all of the model is distilled from the dense one; the state with the
    lowest loss on windows held out is written. Every zero stays a zero.

    Args:
        folder: the pruned model: of `steppe.prune`, or any whose weights have zeros.
        calibration: text file, folder, dataset id, or token ids ``[samples, window]`` (blocks);
            of a whole model any text that ``steppe train`` reads.
        out: the new folder, of the form that `steppe.prune` writes.
        report: called with each block's row of the record.
        options: any other field of `steppe.llm.recover_config.RecoverConfig`: ``scope``, ``dense``
            (the dense model; where ``folder`` has a record of its pruning, the one that was
            pruned), ``train`` (weights, norms or lora), ``rank``, ``held_out``, ``reconstruction``
            (epochs, lr, ...), ``tokens`` and ``patience`` (of a whole model), ``evaluate`` (texts
            on which all three models are measured), and what `steppe.prune` takes.

    Returns:
        The record, as in ``record.json``; ``pruned`` is what was measured before.

    Raises:
        SteppeError: the two models, the text and the folder do not fit each other, or an option
            is not known.

    Source: Roux et al. 2025, arXiv 2510.14444; Zimmer et al. 2023, arXiv 2312.15230; Hinton,
    Vinyals & Dean 2015.
    """
    config = RecoverConfig.of(calibration=calibration, out=out, **options)
    return SCOPES[config.scope](folder, config).recover(report)
