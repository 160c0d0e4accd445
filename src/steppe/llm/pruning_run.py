"""A pruning or a recovery that is ready, run: walk, evaluate, write the record."""

from __future__ import annotations

import contextlib
import hashlib
import resource
import time
from functools import partial
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from steppe.core.courtesy import decorated
from steppe.core.errors import SteppeError
from steppe.core.serialization import damaged
from steppe.engine import ranks
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.host_memory import mapped
from steppe.engine.run_folder import RunFolder, versions
from steppe.llm import memory
from steppe.llm.checkpoint import Checkpoint
from steppe.llm.memo import perplexity_memo, remembered
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.said import (
    gain_of,
    left_as_it_was,
    numel_of,
    packed_bytes,
    pruned_before,
    quality_of,
    versions_of_formats,
)
from steppe.llm.streamed import streamed_perplexity
from steppe.methods import display_of
from steppe.record import stamped


def run(prepared: PreparedPruning, report: Report = lambda row: None) -> dict[str, Any]:
    """Walk over the blocks, evaluate, write the record; a finished one is given as it is.

    Args:
        prepared: what to prune or to recover, and how.
        report: called with each block's row of the record.

    Returns:
        The record.
    """
    with mapped():  # what is read block by block goes again
        return _run(prepared, report)


def _run(prepared: PreparedPruning, report: Report) -> dict[str, Any]:
    folder = RunFolder(prepared.out, prepared.recipe, prepared.as_today)
    if folder.record is not None:
        check_whole(prepared.out)
        return folder.record
    ranks.barrier()  # all have looked before the first one writes
    prepared.check_layers()
    texts = prepared.texts()
    memory.decide(prepared, texts)
    walk = prepared.walk(report)
    if 0 < len(walk.journal.get("blocks", [])) < len(prepared.model):
        prepared.check_goes_on(folder.stored)
    weights = hashlib.sha256() if texts and prepared.config.remember else None
    stored_nonzero = prepared.check_finite(weights)
    with contextlib.ExitStack() as claimed:
        if ranks.first():
            folder.claim()
            claimed.enter_context(folder.alone())
        ranks.barrier()
        stored = weights.hexdigest() if weights is not None else None
        return _work(prepared, folder, walk, texts, (stored_nonzero, stored))


def check_whole(out: Path) -> None:
    """Whether the weights and masks of a finished run are there and not cut short.

    Raises:
        SteppeError: a file is missing or damaged.
    """
    try:
        shards = set(Checkpoint(out).files.values())
    except SteppeError as error:
        raise SteppeError(
            "a finished run has its weights",
            got=error.got,
            way_out="restore them, or choose another --out; or delete that folder",
        ) from None
    for path in sorted(shards | set(out.glob("masks-*.safetensors"))):
        try:
            with safe_open(path, framework="pt"):  # type: ignore[no-untyped-call]
                pass
        except (OSError, SafetensorError) as error:
            raise damaged(path, error) from None


def _work(
    prepared: PreparedPruning,
    folder: RunFolder,
    walk: Blockwise,
    texts: dict[str, Tensor],
    stored: tuple[dict[str, int], str | None],
) -> dict[str, Any]:
    checkpoints = prepared.out / "checkpoints"
    journal = Journal(checkpoints / "job.json")
    began = time.time()
    stored_nonzero, weights = stored
    measured_before = {
        which: perplexities(prepared, journal, which, texts, weights if which == "dense" else None)
        for which in prepared.originals
    }
    rows = walk.run()
    if ranks.first():
        prepared.model.write_rest(prepared.out)
    ranks.barrier()
    for original in prepared.originals.values():
        original.free_rest()
    before = float(journal.get("seconds", 0.0)) - began

    def measured(record: dict[str, Any]) -> None:
        ranks.barrier()  # the first one has kept the record: nobody reads a folder that is written
        sparse = perplexities(prepared, journal, "sparse", texts)
        record["sparse"] = quality_of(sparse) | record["sparse"]
        spent = before + time.time()
        record["seconds"] = round(spent, 3)
        journal.put(seconds=spent)

    def gained(record: dict[str, Any]) -> None:
        if ranks.first():  # before the record is whole: nothing that was for the way is left
            for path in checkpoints.glob("*.bin"):
                path.unlink()
        written = record["sparse"]["bytes"]
        packed = packed_bytes(prepared.model.stored_dtype, rows, written)
        record["sparse"]["bytes_packed"] = packed
        record["gain"] = gain_of(prepared.structure, written, packed)

    notes, seconds = [*prepared.notes, *walk.notes], before + time.time()
    plain = prepared.completed(
        record_of(prepared, rows, notes, measured_before["dense"], seconds, stored_nonzero),
        measured_before,
    )
    record = decorated(
        stamped(plain, display_of(prepared.method.name)),
        {"the perplexity of the pruned model": measured, "the gain": gained},
        folder.finish_record if ranks.first() else lambda record: None,
    )
    ranks.barrier()
    return record


def perplexities(
    prepared: PreparedPruning,
    journal: Journal,
    which: str,
    texts: dict[str, Tensor],
    weights: str | None = None,
) -> dict[str, Any]:
    """Text -> perplexity of an original model, or of the sparse one in the folder of the result.

    With a hash of the weights, what was measured for another pruning of them is taken.
    """
    measured: dict[str, Any] = journal.get(which, {})
    model = prepared.originals.get(which)
    for name, tokens in texts.items():
        if name not in measured:
            model = model or _as_streamed(prepared)
            scratch, size = prepared.out / "checkpoints", prepared.config.micro_batch
            title = f"perplexity of the {which} model on {name}"
            measure = partial(streamed_perplexity, model, tokens, scratch, size, title=title)
            measured[name] = (
                measure()
                if weights is None
                else remembered(
                    measure,
                    perplexity_memo(
                        weights,
                        model.config,
                        tokens,
                        device=prepared.device,
                        dtype=str(model.dtype),
                        batch=size,
                        streamed=model.chained,
                    ),
                )
            )
            journal.put(**{which: measured})
    return measured


def _as_streamed(prepared: PreparedPruning) -> StreamedModel:
    """The result, walked as the dense model was."""
    way = "always" if prepared.model.chained else "never"
    return StreamedModel(str(prepared.out), prepared.device, streamed=way)


def record_of(
    prepared: PreparedPruning,
    rows: list[dict[str, Any]],
    notes: list[str],
    dense: dict[str, Any],
    seconds: float,
    stored_nonzero: dict[str, int],
) -> dict[str, Any]:
    weights = sum(numel_of(x) for row in rows for x in row["layers"])
    zeros = sum(round(x["sparsity_reached"] * numel_of(x)) for row in rows for x in row["layers"])
    before = sum(round(x["sparsity_before"] * numel_of(x)) for row in rows for x in row["layers"])
    model = prepared.model
    parameters = model.parameters()
    nonzero = _nonzero(prepared, rows, stored_nonzero)
    written = sum(p.stat().st_size for p in prepared.out.glob("model-*.safetensors"))
    spent: dict[str, float] = {}
    for row in rows:
        for key, value in row["seconds"].items():
            spent[key] = round(spent.get(key, 0.0) + value, 4)
    return {
        "method": prepared.method.name,
        "recipe": prepared.recipe,
        "sparsity_asked": prepared.method.sparsity,
        "sparsity_before": before / max(weights, 1),
        "sparsity_reached": zeros / max(weights, 1),
        "sparsity_of_all": 1 - nonzero / max(parameters, 1),
        "dense": quality_of(dense)
        | {
            "parameters": parameters,
            "nonzero": sum(stored_nonzero[key] for key in prepared.model.stored_keys()),
            "bytes": prepared.model.checkpoint.bytes,
        },
        "sparse": {
            "parameters": parameters,
            "nonzero": nonzero,
            "bytes": written,
        },
        "blocks": rows,
        "seconds": round(seconds, 3),
        "seconds_pruning": round(spent.get("all", 0.0), 3),
        "seconds_by_part": spent,
        "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
        "seed": prepared.config.seed,
        "processes": ranks.world(),
        "calibration": prepared.calibration,
        "walk": _walked(prepared),
        "versions": versions() | versions_of_formats(),
        "fallbacks": [*_start(prepared), *left_as_it_was(model, prepared.out), *notes],
    }


def _start(prepared: PreparedPruning) -> list[str]:
    """What was done to the model before, where it is taken for the dense one."""
    return pruned_before(prepared.model.folder) if prepared.dense is None else []


def _nonzero(
    prepared: PreparedPruning, rows: list[dict[str, Any]], stored_nonzero: dict[str, int]
) -> int:
    """Parameters of the result that are not zero: those of the blocks, and all others."""
    outside = sum(stored_nonzero[key] for key in prepared.model.stored_keys(blocks=False))
    return outside + sum(int(row["nonzero"]) for row in rows)


def _walked(prepared: PreparedPruning) -> dict[str, Any]:
    """How blocks were called, and how far that is from one plain forward pass of the model."""
    verdict = prepared.model.verdict
    if verdict is None:
        return {}
    walked = {"streamed": prepared.model.chained, "error": verdict.error}
    return walked if verdict.reason is None else walked | {"reason": verdict.reason}
