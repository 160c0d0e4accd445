"""A model's linear layers packed, and a record of what became of each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import unknown
from steppe.sparse.choose import Choice, Question, choose
from steppe.sparse.experts import Experts, stacks_of
from steppe.sparse.format import FORMATS, Format, exact_dtype, holds
from steppe.sparse.linear import Linear, dense_weight, is_linear

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
        bytes: that the weight takes.
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


@dataclass(frozen=True)
class Packable:
    """A matrix that may be packed, dense or as `compact` stores it.

    Args:
        shape: rows and columns.
        dtype: of the model.
        kept: how many of its numbers are not zero.
        stored: the smallest dtype that holds them.
        make: gives it in a format.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    kept: int
    stored: torch.dtype
    make: Callable[[type[Format]], Format]

    @classmethod
    def dense(cls, weight: Tensor, dtype: torch.dtype | None = None) -> Packable:
        """Of a matrix.

        Args:
            weight: ``[rows, columns]``.
            dtype: of the model; the weight's own if None.
        """
        dtype = weight.dtype if dtype is None else dtype
        if not holds(dtype, weight.dtype):
            weight = weight.to(dtype)
        rows, columns = weight.shape
        return cls(
            (rows, columns),
            dtype,
            int(torch.count_nonzero(weight)),
            exact_dtype(weight),
            lambda kind: kind.from_dense(weight).to(dtype),
        )

    @classmethod
    def compact(
        cls, bits: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype
    ) -> Packable:
        """Of bits and values."""
        if not holds(dtype, values.dtype):
            values = values.to(dtype)
        return cls(
            shape,
            dtype,
            values.numel(),
            exact_dtype(values),
            lambda kind: kind.from_compact(bits, values, shape, dtype),
        )

    @property
    def dense_bytes(self) -> int:
        """Of the matrix in the model's dtype."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def packed(matrix: Packable, format: str, tokens: int = 1) -> tuple[Format | None, str]:
    """A matrix in the format that was asked for, or chosen; and why.

    Args:
        matrix: what is packed.
        format: a name, or ``auto``.
        tokens: rows of x that ``auto`` asks for.

    Returns:
        The packed matrix, None where it stays dense; and the reason.

    Example:
        >>> packed(Packable.dense(torch.rand(64, 64)), "index")
        (None, 'index would take 25,864 bytes, dense takes 16,384')
    """
    if format == "auto":
        choice = choose(
            Question.about(matrix.shape, matrix.kept, matrix.stored, matrix.dtype, tokens)
        )
    else:
        choice = Choice(format=format, why="asked for")
    if choice.format == "dense":
        return None, choice.why
    form = matrix.make(FORMATS[choice.format])
    if form.bytes >= matrix.dense_bytes:
        takes = f"{choice.format} would take {form.bytes:,} bytes"
        return None, f"{takes}, dense takes {matrix.dense_bytes:,}"
    return form, choice.why


def check_format(format: str) -> None:
    """Whether there is such a format.

    Raises:
        SteppeError: there is not.
    """
    if format != "auto" and format not in FORMATS:
        raise unknown("format", format, ["auto", *FORMATS])


def tied(model: nn.Module) -> set[int]:
    """The ids of parameters that several modules have."""
    places = Counter(id(p) for m in model.modules() for p in m._parameters.values())
    return {key for key, count in places.items() if count > 1}


def packable(model: nn.Module) -> dict[str, nn.Module]:
    """Layers that can be packed, by the first name that each has: linear ones, and experts."""
    return {n: m for n, m in model.named_modules() if is_linear(m) or stacks_of(m)}


def replaced(model: nn.Module, layers: Mapping[str, nn.Module]) -> None:
    """Put layers into a model, wherever it has the ones of those names.

    Args:
        model: changed in place.
        layers: name -> what comes there.
    """
    new = {id(model.get_submodule(name)): layer for name, layer in layers.items()}
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if id(child) in new:
                parent._modules[name] = new[id(child)]


def in_place(
    module: Any, format: str, tokens: int = 1, pieces: Mapping[str, Packable] | None = None
) -> tuple[nn.Module | None, str]:
    """What comes in the place of a linear layer or of experts; None where they stay, and why.

    Args:
        module: such a layer.
        format: a name, or ``auto``.
        tokens: rows of x that ``auto`` asks for.
        pieces: a linear layer's weight, where the module does not hold it.
    """
    if is_linear(module):
        matrix = pieces["weight"] if pieces else Packable.dense(dense_weight(module))
        form, why = packed(matrix, format, tokens)
        if form is None:
            return None, why
        transposed = not isinstance(module, nn.Linear)
        return Linear(form, module.bias, transposed).train(module.training), why
    stacks: dict[str, list[Format]] = {}
    for name in stacks_of(module):
        stacks[name] = []
        for weight in getattr(module, name).detach():
            own = Packable.dense((weight.t() if module.is_transposed else weight).contiguous())
            form, why = packed(own, format, tokens)
            if form is None and format != "auto":
                return None, f"an expert of {name}: {why}"
            stacks[name].append(form or FORMATS["dense"].from_dense(weight.clone()))
    if all(f.name == "dense" for own in stacks.values() for f in own):
        return None, why
    return Experts(module, stacks), why


def converted(
    model: nn.Module, format: str = "auto", tokens: Callable[[str], int] = lambda name: 1
) -> list[LayerFormat]:
    """Pack a model's linear layers in place, one after the other.

    Args:
        model: any.
        format: ``bits``, ``index``, ``csr``, ``dense``, or ``auto``, the fastest of them here.
        tokens: rows of x for a layer of that name.

    Returns:
        What became of each.

    Raises:
        SteppeError: there is no such format.
    """
    check_format(format)
    shared = tied(model)
    whys: dict[str, str] = {}
    for name, module in packable(model).items():
        if any(id(p) in shared for p in module._parameters.values()):
            whys[name] = "tied to another layer"
            continue
        layer, whys[name] = in_place(module, format, tokens(name))
        if layer is not None:
            replaced(model, {name: layer})
    return remember(model, whys)


def remember(model: nn.Module, whys: Mapping[str, str]) -> list[LayerFormat]:
    """Write a model's record: the reasons given, and those of all other matrices."""
    known = {record.name: record for record in getattr(model, RECORD, ())}
    records = []
    for name, module in model.named_modules():
        for record in _records(name, module):
            why = whys.get(name) or (known[record.name].why if record.name in known else record.why)
            records.append(replace(record, why=why))
    setattr(model, RECORD, records)
    return records


def formats_of(model: nn.Module) -> list[LayerFormat]:
    """What each matrix of a model takes, in which format, and why.

    Example:
        >>> model = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 2))
        >>> _ = torch.nn.init.eye_(model[0].weight)
        >>> _ = converted(model, "bits")
        >>> [(r.name, r.format, r.bytes, r.why) for r in formats_of(model)]
        [('0', 'bits', 1032, 'asked for'), ('1', 'dense', 512, 'bits would take 1,072 bytes, \
dense takes 512')]
    """
    return remember(model, {})


def _records(name: str, module: nn.Module) -> list[LayerFormat]:
    """Of a module's own matrices; experts are one."""
    if isinstance(module, Linear):
        return [] if ".packed." in f".{name}" else [_record(name, [module], "packed")]
    if isinstance(module, Experts):
        return [_record(name, [m for m in module.modules() if isinstance(m, Linear)], "packed")]
    records = []
    for key, p in module._parameters.items():
        if p is not None and p.ndim > 1:
            own = name if key == "weight" else f"{name}.{key}" if name else key
            zeros = p.numel() - int(torch.count_nonzero(p)) if not p.is_meta else 0
            records.append(
                LayerFormat(
                    name=own,
                    format="dense",
                    stored=str(p.dtype).removeprefix("torch."),
                    sparsity=round(zeros / max(p.numel(), 1), 4),
                    bytes=p.numel() * p.element_size(),
                    dense_bytes=p.numel() * p.element_size(),
                    why=_why_dense(module, p),
                )
            )
    return records


def _why_dense(module: nn.Module, parameter: nn.Parameter) -> str:
    kind = type(module).__name__
    if parameter.ndim == 3 and hasattr(module, "num_experts"):
        return f"the experts of {kind} are more than two products and an activation"
    return f"{kind} is no linear layer"


def _record(name: str, layers: list[Linear], why: str) -> LayerFormat:
    matrices = [layer.matrix for layer in layers]
    size = sum(m.rows * m.columns for m in matrices)
    return LayerFormat(
        name=name,
        format=" and ".join(sorted({m.name for m in matrices})),
        stored=" and ".join(sorted({str(m.stored).removeprefix("torch.") for m in matrices})),
        sparsity=round(1 - sum(m.kept for m in matrices) / max(size, 1), 4),
        bytes=sum(m.bytes for m in matrices),
        dense_bytes=sum(m.rows * m.columns * m.dtype.itemsize for m in matrices),
        why=why,
    )
