"""What the attention and the MLP of a transformer are called, family by family."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice

HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
KEY_HEADS = ("num_key_value_heads",)


@dataclass(frozen=True, eq=False)
class Part:
    """The attention or the MLP of one block.

    Args:
        kind: ``head`` or ``channel``, see `Group`.
        owner: the module that holds the sizes as attributes.
        makes: (name of a layer, layer, ``[units, k]`` rows of each unit).
        reads: the same, for columns.
        size: of a head; 1 for channels.
        each: query heads of each key head.
    """

    kind: str
    owner: nn.Module
    makes: tuple[tuple[str, nn.Module, Tensor], ...]
    reads: tuple[tuple[str, nn.Module, Tensor], ...]
    size: int = 1
    each: int = 1

    @property
    def units(self) -> int:
        """Key heads or neurons."""
        return len(self.makes[0][2])

    def group(self, round_to: int) -> Group:
        """The group of coupled channels."""
        slices: list[Slice] = []
        for name, layer, index in self.makes:
            slices.append(Slice(f"{name}.weight", _sides(layer)[0], index, "output"))
            if layer.bias is not None:
                slices.append(Slice(f"{name}.bias", 0, index, "bias"))
        for name, layer, index in self.reads:
            slices.append(Slice(f"{name}.weight", _sides(layer)[1], index, "input"))
        multiple = round_to if self.units >= 2 * round_to else 1
        return Group(slices[0].name, tuple(slices), multiple, self.kind)


Pattern = Callable[[str, nn.Module], Part | None]
PATTERNS: list[Pattern] = []
"""Each looks at one module; a new family is one more function."""


def pattern(function: Pattern) -> Pattern:
    """Register a pattern."""
    PATTERNS.append(function)
    return function


def parts_of(model: nn.Module, skip: Collection[str] = ()) -> Iterator[Part]:
    """Every attention and MLP that a pattern knows, block by block, but for modules to skip."""
    for name, module in model.named_modules():
        if name in skip:
            continue
        for look in PATTERNS:
            found = look(name, module)
            if found is not None:
                yield found


def _is_matrix(layer: object) -> bool:
    return isinstance(layer, nn.Linear) or hasattr(layer, "nf")


def _sides(layer: nn.Module) -> tuple[int, int]:
    """Dimensions of a weight's outputs and inputs."""
    return (0, 1) if isinstance(layer, nn.Linear) else (1, 0)


def width(layer: nn.Module, side: int = 0) -> int:
    """Outputs (side 0) or inputs (side 1) of a linear layer, as its weight has them."""
    weight = layer.weight
    assert isinstance(weight, Tensor)
    return weight.shape[_sides(layer)[side]]


def _layers(module: nn.Module, names: Sequence[str]) -> list[nn.Module] | None:
    """The linear layers below a module with these (dotted) names, if all are there."""
    found = []
    for name in names:
        layer: object = module
        for piece in name.split("."):
            layer = getattr(layer, piece, None)
        if not _is_matrix(layer):
            return None
        assert isinstance(layer, nn.Module)
        found.append(layer)
    return found


def _only(module: nn.Module, layers: Sequence[nn.Module], small: int = 0) -> bool:
    """Whether a module holds no other parameters than these layers' and norms of ``small``."""
    known = {id(p) for layer in layers for p in layer.parameters()}
    for one in module.modules():
        norm = "Norm" in type(one).__name__
        for p in one.parameters(recurse=False):
            if id(p) not in known and not (norm and p.numel() == small):
                return False
    return True


def _first(module: nn.Module, names: Sequence[str]) -> int | None:
    return next((v for n in names if isinstance(v := getattr(module, n, None), int)), None)


def _head_size(owner: nn.Module, made: int) -> int | None:
    size = _first(owner, ("head_dim", "attention_head_size", "key_value_proj_dim"))
    heads = _first(owner, HEADS)
    return size or (made // heads if heads else None)


def _blocks(units: int, k: int, start: int = 0) -> Tensor:
    return torch.arange(start, start + units * k).view(units, k)


def _join(name: str, inside: str) -> str:
    return f"{name}.{inside}" if name else inside


def _attention(
    name: str, owner: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]
) -> Part | None:
    """Queries, keys, values and the projection behind them."""
    q, k, v, o = layers
    size = _head_size(owner, width(q))
    if size is None or not _only(owner, layers, size):
        return None  # e.g. a table with a row for each head, or a norm over all heads
    heads, keys = width(q) // size, width(k) // size
    if width(q) % size or width(k) % size or heads % keys or width(v) != width(k):
        raise SteppeError(
            "query heads must divide evenly over key heads",
            got=f"{name}: {width(q)} queries, {width(k)} keys, heads of {size}",
            way_out=f"exclude={[name]!r}",
        )
    if width(o, 1) != width(q):
        return None
    each = heads // keys
    rows, few = _blocks(keys, each * size), _blocks(keys, size)
    indexed = zip(names, layers, (rows, few, few, rows), strict=True)
    found = [(_join(name, inside), layer, index) for inside, layer, index in indexed]
    return Part("head", owner, tuple(found[:3]), (found[3],), size, each)


ATTENTIONS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)
"""(queries, keys, values, the projection behind them)."""


@pattern
def projections(name: str, module: nn.Module) -> Part | None:
    """Four projections side by side: LLaMA, ViT, CLIP, OPT, BART, Phi, DistilBERT."""
    for names in ATTENTIONS:
        layers = _layers(module, names)
        if layers is not None:
            return _attention(name, module, names, layers)
    return None


@pattern
def nested(name: str, module: nn.Module) -> Part | None:
    """query, key and value in a module of their own, the projection beside it: BERT, DeiT."""
    for inner in ("self", "attention"):
        names = tuple(f"{inner}.{one}" for one in ("query", "key", "value"))
        layers = _layers(module, (*names, "output.dense"))
        if layers is None:
            continue
        owner = getattr(module, inner)
        size = _head_size(owner, width(layers[0]))
        if size is None or not _only(owner, layers[:3], size):
            return None
        rows = _blocks(width(layers[0]) // size, size)
        found = [(_join(name, n), one, rows) for n, one in zip(names, layers, strict=False)]
        last = (_join(name, "output.dense"), layers[3], rows)
        return Part("head", owner, tuple(found), (last,), size)
    return None


@pattern
def fused(name: str, module: nn.Module) -> Part | None:
    """Queries, keys and values in one weight: GPT-2."""
    layers = _layers(module, ("c_attn", "c_proj"))
    size = _head_size(module, width(layers[1], 1)) if layers else None
    if layers is None or size is None or not _only(module, layers, size):
        return None
    wide = width(layers[1], 1)
    if width(layers[0]) != 3 * wide:
        return None
    rows = _blocks(wide // size, size)
    threefold = torch.cat([rows, rows + wide, rows + 2 * wide], dim=1)
    makes = ((_join(name, "c_attn"), layers[0], threefold),)
    return Part("head", module, makes, ((_join(name, "c_proj"), layers[1], rows),), size)


MLPS = (
    (("gate_proj", "up_proj"), "down_proj"),
    (("up_proj",), "down_proj"),
    (("fc1",), "fc2"),
    (("c_fc",), "c_proj"),
    (("w1", "w3"), "w2"),
    (("wi_0", "wi_1"), "wo"),
    (("wi",), "wo"),
    (("dense_h_to_4h",), "dense_4h_to_h"),
    (("lin1",), "lin2"),
)
"""(layers that make the neurons, the layer that reads them)."""


@pattern
def neurons(name: str, module: nn.Module) -> Part | None:
    """The MLPs that are two or three linear layers and nothing else in a module."""
    for makers, reader in MLPS:
        layers = _layers(module, (*makers, reader))
        if layers is None:
            continue
        if _only(module, layers):
            return _mlp(name, module, (*makers, reader), layers)
        # some blocks hold the two layers beside their attention: OPT, BART
        alone = all(len(list(one.children())) == 0 for one in layers)
        if makers == ("fc1",) and alone and hasattr(module, "self_attn"):
            return _mlp(name, module, (*makers, reader), layers)
    return None


@pattern
def intermediate(name: str, module: nn.Module) -> Part | None:
    """intermediate.dense and output.dense: BERT and its kin."""
    names = ("intermediate.dense", "output.dense")
    layers = _layers(module, names)
    if layers is None or not _only(module.intermediate, layers):  # type: ignore[arg-type]
        return None
    return _mlp(name, module, names, layers)


def _mlp(
    name: str, owner: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]
) -> Part | None:
    wide = width(layers[0])
    if any(width(one) != wide for one in layers[:-1]) or width(layers[-1], 1) != wide:
        return None
    index = _blocks(wide, 1)
    found = [(_join(name, n), one, index) for n, one in zip(names, layers, strict=True)]
    return Part("channel", owner, tuple(found[:-1]), (found[-1],))
