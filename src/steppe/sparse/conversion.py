"""A model's layers packed in place: by what is known of their kind, or measured on an example."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.speed import Speed
from steppe.engine.model_latency import compare
from steppe.sparse.choose import STEP, Choice, Question, choose, decided
from steppe.sparse.convolution import Convolution, is_convolution
from steppe.sparse.experts import Experts, stacks_of
from steppe.sparse.format import (
    FORMATS,
    Format,
    check_format,
    exact_dtype,
    holds,
    without_negative_zeros,
)
from steppe.sparse.linear import Linear, dense_weight, is_linear
from steppe.sparse.module import PackedModule
from steppe.sparse.record import LayerFormat, remember
from steppe.sparse.reference import without_zeros


@dataclass(frozen=True)
class Packable:
    """A matrix that may be packed, dense or as `compact` stores it.

    Args:
        shape: rows and columns.
        dtype: of the model.
        numbers: all of them, or those that are stored.
        make: gives it in a format.
    """

    shape: tuple[int, int]
    dtype: torch.dtype
    numbers: Tensor
    make: Callable[[type[Format]], Format]

    @classmethod
    def dense(cls, weight: Tensor, dtype: torch.dtype | None = None) -> Packable:
        """Of a matrix.

        Args:
            weight: ``[rows, columns]``.
            dtype: of the model; the weight's own if None.
        """
        dtype = weight.dtype if dtype is None else dtype
        if not (weight.is_floating_point() and holds(dtype, weight.dtype)):
            weight = weight.to(dtype)
        weight = without_negative_zeros(weight)
        rows, columns = weight.shape
        return cls(
            (rows, columns),
            dtype,
            weight,
            lambda kind: kind.from_dense(weight).to(dtype),
        )

    @classmethod
    def compact(
        cls, bits: Tensor, values: Tensor, shape: tuple[int, int], dtype: torch.dtype
    ) -> Packable:
        """Of bits and values."""
        if not (values.is_floating_point() and holds(dtype, values.dtype)):
            values = values.to(dtype)
        if bool((values == 0).any()):  # -0.0, see `without_negative_zeros`
            bits, values = without_zeros(bits, values)
        return cls(
            shape,
            dtype,
            values,
            lambda kind: kind.from_compact(bits, values, shape, dtype),
        )

    def question(self, tokens: int, device: torch.device | None = None) -> Question:
        """What is asked to choose its format, for the device where it lies or will lie."""
        kept = int(torch.count_nonzero(self.numbers))
        stored, device = exact_dtype(self.numbers), device or self.numbers.device
        return Question.about(self.shape, kept, stored, self.dtype, tokens, device)

    @property
    def dense_bytes(self) -> int:
        """Of the matrix in the model's dtype."""
        return self.shape[0] * self.shape[1] * self.dtype.itemsize


def packed(
    matrix: Packable, format: str, tokens: int = 1, device: torch.device | None = None
) -> tuple[Format | None, str]:
    """A matrix in the format that was asked for, or chosen; and why.

    Args:
        matrix: what is packed.
        format: a name, or ``auto``.
        tokens: rows of x that ``auto`` asks for.
        device: where it will be multiplied; where it lies if None.

    Returns:
        The packed matrix, None where it stays dense; and the reason.

    Example:
        >>> packed(Packable.dense(torch.rand(64, 64)), "index")
        (None, 'index would take 25,864 bytes, dense takes 16,384')
    """
    if format == "auto":
        choice = choose(matrix.question(tokens, device))
    else:
        choice = Choice(format=format, why="asked for")
    if choice.format == "dense":
        return None, choice.why
    form = matrix.make(FORMATS[choice.format])
    if form.bytes >= matrix.dense_bytes:
        takes = f"{choice.format} would take {form.bytes:,} bytes"
        return None, f"{takes}, dense takes {matrix.dense_bytes:,}"
    return form, choice.why


def tied(model: nn.Module) -> set[int]:
    """The ids of parameters that several modules have."""
    own = (p for m in model.modules() for p in m._parameters.values() if p is not None)
    return {key for key, count in Counter(map(id, own)).items() if count > 1}


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
    module: Any,
    format: str,
    tokens: int = 1,
    pieces: Mapping[str, Packable] | None = None,
    device: torch.device | None = None,
) -> tuple[nn.Module | None, str]:
    """What comes in the place of a linear layer or of experts; None where they stay, and why.

    Args:
        module: such a layer.
        format: a name, or ``auto``.
        tokens: rows of x that ``auto`` asks for.
        pieces: a linear layer's weight, where the module does not hold it.
        device: where it will compute; where it lies if None.
    """
    if is_linear(module):
        matrix = pieces["weight"] if pieces else Packable.dense(dense_weight(module))
        form, why = packed(matrix, format, tokens, device)
        if form is None:
            return None, why
        transposed = not isinstance(module, nn.Linear)
        return Linear(form, module.bias, transposed).train(module.training), why
    stacks: dict[str, list[Format]] = {}
    for name in stacks_of(module):
        stacks[name] = []
        for weight in getattr(module, name).detach():
            straight = (weight.t() if module.is_transposed else weight).contiguous()
            form, why = packed(Packable.dense(straight), format, tokens, device)
            if form is None and format != "auto":
                return None, f"an expert of {name}: {why}"
            # a copy, so that the stack can be given up
            stacks[name].append(form or FORMATS["dense"].from_dense(straight.clone()))
    if all(f.name == "dense" for own in stacks.values() for f in own):
        return None, why
    return Experts(module, stacks), why


LEAST = 0.9
"""Share of zeros from which a convolution is measured; with fewer, dense is faster by far."""
Compare = Callable[[nn.Module, nn.Module, Tensor], Speed]


def convert(
    model: nn.Module,
    example: Any = None,
    format: str = "auto",
    *,
    tokens: int = 1,
    measure: Compare = compare,
) -> list[LayerFormat]:
    """Pack the layers of a model in place, one after the other.

    Args:
        model: any.
        example: what the model is called with; then each linear layer and convolution is measured
            on what reaches it, and packed where that is surely faster. Without one, linear layers
            are packed by what is known of their kind, and convolutions stay dense.
        format: ``bits``, ``index`` or ``csr`` for all layers that get smaller by it, or ``auto``,
            the fastest.
        tokens: rows of x that ``auto`` asks for without an example.
        measure: how many times as fast as the first module the second is.

    Returns:
        What became of each matrix, and why; later by `steppe.sparse.formats_of` too.

    Raises:
        SteppeError: there is no such format.

    Example:
        >>> model = nn.Sequential(nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64))
        >>> _ = nn.init.eye_(model[0].weight)
        >>> [(record.name, record.format) for record in convert(model, format="index")]
        [('0', 'index'), ('2', 'dense')]
    """
    check_format(format)
    shared = tied(model)
    layers = packable(model) | {n: m for n, m in model.named_modules() if is_convolution(m)}
    inputs = {} if example is None else inputs_of(model, layers, example)
    known: dict[Any, Choice] = {}
    whys: dict[str, str] = {}
    for name, module in layers.items():
        layer: nn.Module | None = None
        if any(id(p) in shared for p in module._parameters.values()):
            whys[name] = "tied to another layer"
        elif example is not None and not stacks_of(module):
            layer, whys[name] = _on_example(module, inputs.get(name), format, known, measure)
        elif is_convolution(module):
            whys[name] = "whether a convolution is faster is measured on an example"
        else:
            layer, whys[name] = in_place(module, format, tokens)
        if layer is not None:
            replaced(model, {name: layer})
    return remember(model, whys)


@torch.no_grad()
def inputs_of(model: nn.Module, layers: Mapping[str, nn.Module], example: Any) -> dict[str, Tensor]:
    """What reaches each layer first when the model sees an example; in eval mode."""
    seen: dict[str, Tensor] = {}

    def note(name: str, _: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> None:
        x = next(iter([*inputs, *named.values()]), None)
        if isinstance(x, Tensor) and name not in seen:
            seen[name] = x.detach()

    hooks = [
        layer.register_forward_pre_hook(partial(note, name), with_kwargs=True)
        for name, layer in layers.items()
    ]
    mode = model.training
    try:
        model.eval()
        model(*example) if isinstance(example, tuple) else model(example)
    finally:
        model.train(mode)
        for hook in hooks:
            hook.remove()
    return seen


def _on_example(
    module: Any, x: Tensor | None, format: str, known: dict[Any, Choice], measure: Compare
) -> tuple[nn.Module | None, str]:
    """What comes in a layer's place, measured on what reaches it."""
    if x is None:
        return None, "the example does not reach it"
    weight = module.weight.detach()
    kind = Convolution if is_convolution(module) else Linear
    share = 1 - int(torch.count_nonzero(weight)) / max(weight.numel(), 1)
    dense = weight.numel() * weight.element_size()
    names = [format]
    if format == "dense":
        return None, "asked for"
    if format == "auto":
        if kind is Convolution and share < LEAST:
            return None, f"fewer than {LEAST:.0%} of the convolution are zeros"
        names = [name for name in FORMATS if name != "dense" and FORMATS[name].quick(x.device)]
    candidates: dict[str, PackedModule] = {}
    for name in names:
        candidate = kind.of(module, name)
        takes = candidate.matrix.bytes
        if takes < dense:
            candidates[name] = candidate
    if format != "auto":
        too_large = f"{format} would take {takes:,} bytes, dense takes {dense:,}"
        return candidates.get(format), "asked for" if candidates else too_large
    alike = (repr(module), exact_dtype(weight), round(share / STEP))
    about = (*alike, x.shape, x.dtype, x.device, *candidates)
    if about not in known:
        known[about] = decided({n: measure(module, c, x) for n, c in candidates.items()})
    return candidates.get(known[about].format), known[about].why
