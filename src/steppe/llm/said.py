"""What a record of a language model says in its own words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from steppe.core.protocols import Structure
from steppe.core.speed import DENSE_KERNELS
from steppe.llm.side_files import left_out

if TYPE_CHECKING:
    from steppe.llm.model import StreamedModel


def quality_of(measured: dict[str, Any]) -> dict[str, Any]:
    """A record's figures of one model, from text -> perplexity; the first text's come first.

    Example:
        >>> quality_of({})
        {}
    """
    if not measured:
        return {}
    first = next(iter(measured.values()))
    return {"perplexity": first["perplexity"], "loss": first["loss"], "texts": measured}


def gain_of(structure: Structure, written: int, packed: int) -> str:
    """What is gained, in a sentence: nothing yet, and what to do for it.

    Args:
        structure: says what GPUs can use.
        written: bytes of the weights as they are stored.
        packed: bytes with only nonzero weights, and one bit of each.
    """
    if structure.removes is not None:
        return "Gain: what was cut out stays gone, wherever the model runs; steppe bench times it"
    text = (
        f"Gain: none yet in speed or size; the zeros are stored as numbers "
        f"({written} bytes). steppe export --to compact stores about {packed}, steppe.load "
        "computes with as little in memory, and steppe bench times that"
    )
    if structure == Structure.make("2:4"):
        return text + "; steppe export --to 2:4 keeps the layers that a GPU runs faster."
    return f"{text}. Loaded by other means it is not faster: {DENSE_KERNELS}."


def left_as_it_was(model: StreamedModel, out: Path | None) -> list[str]:
    """What of a model is not pruned, and which of its files are not in the result, with reasons.

    Args:
        model: the dense one.
        out: the folder of the result; None where nothing is written.
    """
    said = [f"{name}: {why}" for name, why in model.left_dense().items()]
    said += [
        f"{x}: in the checkpoint but not in the model, copied as it is, dense"
        for x in model.unused()
    ]
    if out is not None:
        said += left_out(model.folder, model.checkpoint.files.values(), out)
    return said


def pruned_before(folder: Path) -> list[str]:
    """A sentence that says so, if a model that is pruned now was pruned or cut before.

    Args:
        folder: the model's.

    Example:
        >>> pruned_before(Path("/nowhere"))
        []
    """
    try:
        earlier = json.loads((folder / "record.json").read_text(encoding="utf-8"))
        method = earlier["method_display"] if "method_display" in earlier else earlier["method"]
        gone = "removed" in earlier
        share = float(earlier["sparsity_of_all"])
    except (OSError, ValueError, LookupError, TypeError):
        if not (folder / "removal.json").is_file():
            return []
        return [f"the model was cut before (removal.json in {folder}); it is what dense means here"]
    what = "of the parameters it had are gone" if gone else "of its parameters are zero"
    return [
        f"the model was pruned before ({method}: {share:.2%} {what}, by record.json in {folder}); "
        "it is what dense means here"
    ]


def versions_of_formats() -> dict[str, str]:
    """Of what reads and writes a language model's files."""
    from importlib.metadata import version

    return {name: version(name) for name in ("transformers", "safetensors")}


def numel_of(row: dict[str, Any]) -> int:
    """Weights of a layer, from its row of the record."""
    return int(torch.Size(row["shape"]).numel())


def packed_bytes(
    stored: Callable[[str], torch.dtype], rows: list[dict[str, Any]], written: int
) -> int:
    """Bytes when only nonzero weights are stored, with one bit per weight of where they are.

    Args:
        stored: weight -> the type that its file holds.
        rows: of the blocks.
        written: bytes of all shards.
    """
    total = written
    for layer in (layer for row in rows for layer in row["layers"]):
        n = numel_of(layer)
        zeros = round(layer["sparsity_reached"] * n)
        total -= zeros * stored(layer["name"]).itemsize - n // 8
    return total
