"""What became of each matrix of a model: its format, what it takes, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import nn

from steppe.sparse.convolution import is_convolution
from steppe.sparse.experts import Experts
from steppe.sparse.linear import is_linear
from steppe.sparse.module import PackedModule

RECORD = "steppe_sparse"
"""The attribute of a model that holds its record."""


@dataclass(frozen=True, kw_only=True)
class LayerFormat:
    """What became of one matrix.

    Args:
        name: of the layer.
        format: bits, index, csr or dense.
        stored: dtype of the values.
        sparsity: share of zeros.
        bytes: that the weight takes; 0 where it is another one's, tied.
        dense_bytes: that it would take in the model's dtype.
        why: this format.
    """

    name: str
    format: str
    stored: str
    sparsity: float
    bytes: int
    dense_bytes: int
    why: str

    def record(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def remember(model: nn.Module, whys: Mapping[str, str]) -> list[LayerFormat]:
    """Write a model's record: the reasons given, and those of all other matrices."""
    known = {record.name: record for record in getattr(model, RECORD, ())}
    records = []
    counted: set[int] = set()
    for name, module in model.named_modules():
        for record in _records(name, module, counted):
            why = whys.get(name) or (known[record.name].why if record.name in known else record.why)
            records.append(replace(record, why=why))
    setattr(model, RECORD, records)
    return records


def formats_of(model: nn.Module) -> list[LayerFormat]:
    """What each matrix of a model takes, in which format, and why.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
        >>> _ = torch.nn.init.eye_(model[0].weight)
        >>> import steppe
        >>> _ = steppe.sparse.convert(model, format="bits")
        >>> [(r.name, r.format, r.bytes, r.why) for r in formats_of(model)]
        [('0', 'bits', 1032, 'asked for'), ('1', 'dense', 512, 'bits would take 1,072 bytes, \
dense takes 512')]
    """
    return remember(model, {})


def _records(name: str, module: nn.Module, counted: set[int]) -> list[LayerFormat]:
    """Of a module's own matrices; experts are one, and what is tied takes its bytes once."""
    if isinstance(module, PackedModule):
        return [] if ".packed." in f".{name}" else [_record(name, [module])]
    if isinstance(module, Experts):
        return [_record(name, [m for m in module.modules() if isinstance(m, PackedModule)])]
    records = []
    for key, p in module._parameters.items():
        if p is not None and p.ndim > 1:
            own = name if key == "weight" else f"{name}.{key}" if name else key
            zeros = p.numel() - int(torch.count_nonzero(p)) if not p.is_meta else 0
            size = 0 if id(p) in counted else p.numel() * p.element_size()
            counted.add(id(p))
            records.append(
                LayerFormat(
                    name=own,
                    format="dense",
                    stored=str(p.dtype).removeprefix("torch."),
                    sparsity=round(zeros / max(p.numel(), 1), 4),
                    bytes=size,
                    dense_bytes=size,
                    why=_why_dense(module, p),
                )
            )
    return records


def _why_dense(module: nn.Module, parameter: nn.Parameter) -> str:
    kind = type(module).__name__
    if parameter.ndim == 3 and hasattr(module, "num_experts"):
        return f"the experts of {kind} are more than two products and an activation"
    if is_linear(module) or is_convolution(module):
        return "not packed"
    return f"{kind} is no linear layer"


def _record(name: str, layers: list[PackedModule]) -> LayerFormat:
    matrices = [layer.matrix for layer in layers]
    size = sum(m.rows * m.columns for m in matrices)
    return LayerFormat(
        name=name,
        format=" and ".join(sorted({m.name for m in matrices})),
        stored=" and ".join(sorted({str(m.stored).removeprefix("torch.") for m in matrices})),
        sparsity=round(1 - sum(m.kept for m in matrices) / max(size, 1), 4),
        bytes=sum(m.bytes for m in matrices),
        dense_bytes=sum(m.rows * m.columns * m.dtype.itemsize for m in matrices),
        why="packed",
    )
