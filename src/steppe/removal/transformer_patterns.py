"""Patterns that recognise the attention and the MLP of transformers by their modules' names."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from steppe.core.group import Group, Slice

HEADS = ("num_heads", "num_attention_heads", "n_head", "n_heads")
KEY_HEADS = ("num_key_value_heads",)


Indexed = tuple[str, nn.Module, Tensor]
"""Name of a layer, the layer, and the positions of each unit in it."""


@dataclass(frozen=True, eq=False)
class Sublayer:
    """The attention or the MLP of one transformer block.

    Args:
        kind: ``head`` or ``channel``, see `Group`.
        owner: the module that holds the sizes as attributes.
        producers: layers that compute the units: (name, layer, ``[units, k]`` rows of each unit).
        consumers: layers that read them: (name, layer, ``[units, k]`` columns of each unit).
        head_size: 1 for channels.
        queries_per_key: query heads of each key head.
    """

    kind: str
    owner: nn.Module
    producers: tuple[Indexed, ...]
    consumers: tuple[Indexed, ...]
    head_size: int = 1
    queries_per_key: int = 1

    @property
    def units(self) -> int:
        """Key heads or neurons."""
        return len(self.producers[0][2])

    def group(self, round_to: int) -> Group:
        """The group of coupled channels."""
        slices: list[Slice] = []
        for name, layer, index in self.producers:
            slices.append(Slice(f"{name}.weight", _sides(layer)[0], index, "output"))
            if layer.bias is not None:
                slices.append(Slice(f"{name}.bias", 0, index, "bias"))
        for name, layer, index in self.consumers:
            slices.append(Slice(f"{name}.weight", _sides(layer)[1], index, "input"))
        multiple = round_to if self.units >= 2 * round_to else 1
        return Group(slices[0].name, tuple(slices), multiple, self.kind)


Pattern = Callable[[str, nn.Module], Sublayer | None]
PATTERNS: list[Pattern] = []
"""Each is asked about one module; a new family is one more function."""


def pattern(function: Pattern) -> Pattern:
    """Register a pattern."""
    PATTERNS.append(function)
    return function


def sublayers_of(model: nn.Module, skip: Collection[str] = ()) -> Iterator[Sublayer]:
    """Every attention and MLP that a pattern recognises, block by block.

    Args:
        model: of transformers, or with the same names of modules.
        skip: names of modules that are left out.
    """
    for name, module in model.named_modules():
        if name in skip:
            continue
        for recognise in PATTERNS:
            sublayer = recognise(name, module)
            if sublayer is not None:
                yield sublayer


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
    layers = []
    for name in names:
        layer: object = module
        for attribute in name.split("."):
            layer = getattr(layer, attribute, None)
        if not _is_matrix(layer):
            return None
        assert isinstance(layer, nn.Module)
        layers.append(layer)
    return layers


def _only(module: nn.Module, layers: Sequence[nn.Module], norm_size: int = 0) -> bool:
    """Whether a module has only the parameters of these layers, and norms of this size."""
    known = {id(p) for layer in layers for p in layer.parameters()}
    for submodule in module.modules():
        is_norm = "Norm" in type(submodule).__name__
        for p in submodule.parameters(recurse=False):
            if id(p) not in known and not (is_norm and p.numel() == norm_size):
                return False
    return True


def _first_int(module: nn.Module, names: Sequence[str]) -> int | None:
    return next((v for n in names if isinstance(v := getattr(module, n, None), int)), None)


def _head_size(owner: nn.Module, outputs: int) -> int | None:
    names = ("head_dim", "attention_head_size", "key_value_proj_dim", "head_size")
    size = _first_int(owner, names)
    heads = _first_int(owner, HEADS)
    return size or (outputs // heads if heads else None)


def _positions(units: int, k: int) -> Tensor:
    """``[units, k]``: the positions of units of k neighbours each."""
    return torch.arange(units * k).view(units, k)


def _indexed(
    name: str, names: Sequence[str], layers: Sequence[nn.Module], indexes: Sequence[Tensor]
) -> tuple[Indexed, ...]:
    """Layers of the module ``name`` with their full names and the positions of their units."""
    prefix = f"{name}." if name else ""
    triples = zip(names, layers, indexes, strict=True)
    return tuple((prefix + inside, layer, index) for inside, layer, index in triples)


def _attention(
    name: str, owner: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]
) -> Sublayer | None:
    """Queries, keys, values and the projection behind them."""
    q, k, v, o = layers
    size = _head_size(owner, width(q))
    if size is None or not _only(owner, layers, size):
        return None  # e.g. a table with a row for each head, or a norm over all heads
    heads, keys = width(q) // size, width(k) // size
    uneven = width(q) % size or width(k) % size or heads % keys or width(v) != width(k)
    if uneven or width(o, 1) != width(q):
        return None  # its heads stay
    per_key = heads // keys
    of_queries, of_keys = _positions(keys, per_key * size), _positions(keys, size)
    indexes = (of_queries, of_keys, of_keys, of_queries)
    indexed = _indexed(name, names, layers, indexes)
    return Sublayer("head", owner, indexed[:3], indexed[3:], size, per_key)


ATTENTIONS = (
    ("q_proj", "k_proj", "v_proj", "o_proj"),
    ("q_proj", "k_proj", "v_proj", "out_proj"),
    ("q_proj", "k_proj", "v_proj", "dense"),
    ("q_lin", "k_lin", "v_lin", "out_lin"),
)
"""(queries, keys, values, the projection behind them)."""


@pattern
def projections(name: str, module: nn.Module) -> Sublayer | None:
    """Four projections side by side: LLaMA, ViT, CLIP, OPT, BART, Phi, DistilBERT."""
    for names in ATTENTIONS:
        layers = _layers(module, names)
        if layers is not None:
            return _attention(name, module, names, layers)
    return None


@pattern
def nested(name: str, module: nn.Module) -> Sublayer | None:
    """query, key and value in a module of their own, the projection beside it: BERT, DeiT."""
    for inner in ("self", "attention"):
        names = (*(f"{inner}.{which}" for which in ("query", "key", "value")), "output.dense")
        layers = _layers(module, names)
        if layers is None:
            continue
        owner = getattr(module, inner)
        size = _head_size(owner, width(layers[0]))
        if size is None or not _only(owner, layers[:3], size):
            return None
        index = _positions(width(layers[0]) // size, size)
        indexed = _indexed(name, names, layers, [index] * 4)
        return Sublayer("head", owner, indexed[:3], indexed[3:], size)
    return None


@pattern
def fused(name: str, module: nn.Module) -> Sublayer | None:
    """Queries, keys and values in one weight: GPT-2."""
    names = ("c_attn", "c_proj")
    layers = _layers(module, names)
    size = _head_size(module, width(layers[1], 1)) if layers else None
    if layers is None or size is None or not _only(module, layers, size):
        return None
    heads_width = width(layers[1], 1)
    if width(layers[0]) != 3 * heads_width:
        return None
    index = _positions(heads_width // size, size)
    of_all_three = torch.cat([index, index + heads_width, index + 2 * heads_width], dim=1)
    indexed = _indexed(name, names, layers, (of_all_three, index))
    return Sublayer("head", module, indexed[:1], indexed[1:], size)


@pattern
def interleaved(name: str, module: nn.Module) -> Sublayer | None:
    """The query, key and value of each head beside each other: GPT-NeoX, Persimmon."""
    names = ("query_key_value", "dense")
    layers = _layers(module, names)
    size = _head_size(module, width(layers[1], 1)) if layers else None
    if layers is None or size is None or not _only(module, layers, size):
        return None
    heads_width = width(layers[1], 1)
    if width(layers[0]) != 3 * heads_width or heads_width % size:
        return None  # fewer keys than queries
    heads = heads_width // size
    indexes = (_positions(heads, 3 * size), _positions(heads, size))
    indexed = _indexed(name, names, layers, indexes)
    return Sublayer("head", module, indexed[:1], indexed[1:], size)


@pattern
def stacked(name: str, module: nn.Module) -> Sublayer | None:
    """All queries, then all keys, then all values in one weight: Phi-3."""
    names = ("qkv_proj", "o_proj")
    layers = _layers(module, names)
    size = _head_size(module, width(layers[1], 1)) if layers else None
    if layers is None or size is None or not _only(module, layers, size):
        return None
    queries = width(layers[1], 1)
    keys, uneven = divmod(width(layers[0]) - queries, 2 * size)
    if uneven or keys < 1 or queries % (keys * size):
        return None
    per_key = queries // size // keys
    of_queries, of_keys = _positions(keys, per_key * size), _positions(keys, size)
    of_values = of_keys + queries + keys * size
    of_all_three = torch.cat([of_queries, of_keys + queries, of_values], dim=1)
    indexed = _indexed(name, names, layers, (of_all_three, of_queries))
    return Sublayer("head", module, indexed[:1], indexed[1:], size, per_key)


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
"""(layers that compute the neurons, the layer that reads them)."""


@pattern
def neurons(name: str, module: nn.Module) -> Sublayer | None:
    """The MLPs that are two or three linear layers and nothing else in a module."""
    for producers, consumer in MLPS:
        names = (*producers, consumer)
        layers = _layers(module, names)
        if layers is None:
            continue
        if _only(module, layers):
            return _mlp(name, module, names, layers)
        # some blocks have the two layers beside their attention: OPT, BART
        plain = all(len(list(layer.children())) == 0 for layer in layers)
        if producers == ("fc1",) and plain and hasattr(module, "self_attn"):
            return _mlp(name, module, names, layers)
    return None


@pattern
def gate_above_up(name: str, module: nn.Module) -> Sublayer | None:
    """All gates, then what they multiply, in one weight: Phi-3, GLM."""
    names = ("gate_up_proj", "down_proj")
    layers = _layers(module, names)
    if layers is None or not _only(module, layers):
        return None
    neurons = width(layers[1], 1)
    if width(layers[0]) != 2 * neurons:
        return None
    own = _positions(neurons, 1)
    indexed = _indexed(name, names, layers, (torch.cat([own, own + neurons], dim=1), own))
    return Sublayer("channel", module, indexed[:1], indexed[1:])


@pattern
def intermediate(name: str, module: nn.Module) -> Sublayer | None:
    """intermediate.dense and output.dense: BERT and its kin."""
    names = ("intermediate.dense", "output.dense")
    layers = _layers(module, names)
    if layers is None or not _only(module.intermediate, layers):  # type: ignore[arg-type]
        return None
    return _mlp(name, module, names, layers)


def _mlp(
    name: str, owner: nn.Module, names: Sequence[str], layers: Sequence[nn.Module]
) -> Sublayer | None:
    neurons = width(layers[0])
    if any(width(layer) != neurons for layer in layers[:-1]) or width(layers[-1], 1) != neurons:
        return None
    indexed = _indexed(name, names, layers, [_positions(neurons, 1)] * len(layers))
    return Sublayer("channel", owner, indexed[:-1], indexed[-1:])
