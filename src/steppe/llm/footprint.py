"""What a language model's folder holds: parameters, zeros, their pattern, and bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.llm.checkpoint import Checkpoint
from steppe.llm.compact import CompactCheckpoint

GROUPS = (4, 8, 16, 32)
"""The M of N:M patterns that are looked for."""
_SPARSE = 0.01
"""Share of zeros from which a matrix counts as pruned: any trained one has a few by rounding."""
_FULL = 0.98
"""Share of its N places that an N:M pattern fills; one that happens to be so fills fewer."""


def footprint(folder: Path) -> dict[str, Any]:
    """Of the weights in a folder, plain or compact; one tensor is in memory at a time.

    Args:
        folder: with config.json and safetensors.

    Returns:
        ``parameters``; ``zeros``, their share of the parameters; ``pattern``, N:M, where all
        pruned matrices have it, else ""; ``disk_bytes``, of the files; ``packed_bytes``, with
        each matrix as one bit for each weight and the values that are kept, where that is smaller.
    """
    compact = any(folder.glob("compact-*.safetensors"))
    source = CompactCheckpoint(folder) if compact else Checkpoint(folder)
    numel = zeros = packed = 0
    most: list[dict[int, tuple[int, float]]] = []
    for key in source.files:
        tensor = source.read([key])[key]
        gone = tensor.numel() - int(torch.count_nonzero(tensor))
        numel, zeros = numel + tensor.numel(), zeros + gone
        bits = -(-tensor.numel() // 8) + (tensor.numel() - gone) * tensor.element_size()
        packed += min(bits, tensor.nbytes) if tensor.ndim > 1 else tensor.nbytes
        if tensor.ndim > 1 and gone > _SPARSE * tensor.numel():
            most.append(_kept_of(tensor))
    return {
        "parameters": numel,
        "zeros": zeros / max(numel, 1),
        "pattern": _pattern(most),
        "disk_bytes": source.bytes,
        "packed_bytes": packed,
    }


def _kept_of(matrix: Tensor) -> dict[int, tuple[int, float]]:
    """M -> the most and the mean of what is kept of M consecutive inputs.

    Inputs are the last dimension, or the first where that has the pattern (as in Conv1D).
    """
    kept = {}
    for size in GROUPS:
        found = []
        for rows in (matrix, matrix.transpose(-1, -2)):
            if rows.shape[-1] % size == 0:
                counts = (rows != 0).unflatten(-1, (-1, size)).sum(-1)
                found.append((int(counts.max()), float(counts.float().mean())))
        if found:
            kept[size] = min(found)
    return kept


def _pattern(matrices: list[dict[int, tuple[int, float]]]) -> str:
    """The one with the smallest groups that all matrices have."""
    for size in GROUPS:
        own = [kept[size] for kept in matrices if size in kept]
        most = max((n for n, _ in own), default=size)
        if len(own) == len(matrices) and most < size:
            return f"{most}:{size}" if min(mean for _, mean in own) >= _FULL * most else ""
    return ""


def kind_of(own: dict[str, Any], dense: dict[str, Any]) -> str:
    """What was done to a model: unstructured, N:M, structured, both, or nothing (dense).

    Args:
        own: its `footprint`.
        dense: that of the model it was made from.

    Example:
        >>> dense = {"parameters": 100, "zeros": 0.0, "pattern": ""}
        >>> kind_of(dense | {"zeros": 0.5, "pattern": "2:4"}, dense)
        'N:M'
        >>> kind_of(dense | {"parameters": 70, "zeros": 0.4}, dense)
        'structured and unstructured'
    """
    smaller = own["parameters"] < dense["parameters"]
    sparse = own["zeros"] - dense["zeros"] > _SPARSE
    zeros = ("N:M" if own["pattern"] else "unstructured") if sparse else ""
    return " and ".join(filter(None, ("structured" * smaller, zeros))) or "dense"
