"""How deep and how wide a language model's blocks are, and what that makes in parameters."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, positions
from steppe.core.prunable import prunable
from steppe.llm.architecture import block_names
from steppe.llm.skeleton import skeleton
from steppe.llm.structured.depth import drop_blocks
from steppe.llm.structured.readers import READS
from steppe.removal.surgery import slice_model
from steppe.removal.transformer_groups import transformer_groups
from steppe.removal.transformer_patterns import sublayers_of

ROUTERS = ("gate", "router")
"""What modules beside the experts of a mixture are called that choose among these."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """A language model whose blocks are alike: its sizes, and how many parameters each is of.

    parameters = outside + blocks * (per_block + heads * per_head + feed_forward), where
    feed_forward = neurons * per_neuron, and of a mixture experts * (neurons * per_neuron +
    per_expert). So a narrower model is ``shape.resized(neurons=...)``.

    Args:
        blocks: decoder blocks.
        neurons: of each feed-forward part, of each expert in a mixture; 0 if they are not known.
        heads: key heads of each attention; 0 if they are not known.
        queries_per_key: query heads of each key head.
        head_size: width of a head.
        hidden: width of the residual stream.
        vocabulary: rows of the embedding.
        experts: of each mixture; 0 if there is none.
        top_k: of these, how many a token goes through.
        per_neuron: parameters of a neuron, in one block and one expert.
        per_head: of a key head with its query heads, in a block.
        per_expert: of an expert and its row of the router, without neurons.
        per_block: of a block, without all these.
        outside: of the embeddings, the last norm and the head; what is tied counts once.
        width: bytes of one parameter as it is stored.
        cuts: what `skeleton_of` can make fewer: ``neurons``, ``heads``, ``blocks``.

    Example:
        >>> tiny = Shape(blocks=2, neurons=20, heads=2, queries_per_key=1, head_size=6, hidden=12,
        ...     vocabulary=26, per_neuron=36, per_head=288, per_block=24, outside=636)
        >>> tiny.parameters, tiny.bytes, tiny.said()
        (3276, 6552, '2 blocks, 20 neurons, 2 heads')
    """

    blocks: int
    neurons: int
    heads: int
    queries_per_key: int
    head_size: int
    hidden: int
    vocabulary: int
    experts: int = 0
    top_k: int = 0
    per_neuron: int = 0
    per_head: int = 0
    per_expert: int = 0
    per_block: int = 0
    outside: int = 0
    width: int = 2
    cuts: tuple[str, ...] = ("blocks",)

    @classmethod
    def of(cls, config: Any) -> Self:
        """The shape of the model that transformers builds from a config; no weights are needed.

        Raises:
            SteppeError: its blocks are not alike, or a mixture has several kinds of experts.
        """
        stored = getattr(config, "dtype", None)
        model = skeleton(copy.deepcopy(config), torch.float32)
        model.tie_weights()
        names = block_names(model)
        blocks = [model.get_submodule(name) for name in names]
        _check_alike(names, blocks)
        block, text = blocks[0], model.config.get_text_config()
        counted = _counted(block)
        inside = sum({id(p): p.numel() for b in blocks for p in b.parameters()}.values())
        every = sum({id(p): p.numel() for p in model.parameters()}.values())
        whole = cls(
            blocks=len(blocks),
            hidden=int(text.hidden_size),
            vocabulary=int(model.get_input_embeddings().weight.shape[0]),
            top_k=int(getattr(text, "num_experts_per_tok", None) or 0),
            outside=every - inside,
            width=(stored if isinstance(stored, torch.dtype) else torch.float32).itemsize,
            **counted,
        )
        return replace(whole, per_block=inside // len(blocks) - whole.block)

    @property
    def block(self) -> int:
        """Parameters of one block."""
        neurons = self.neurons * self.per_neuron
        mixture = self.experts * (neurons + self.per_expert)
        return self.per_block + self.heads * self.per_head + (mixture if self.experts else neurons)

    @property
    def parameters(self) -> int:
        """Of the whole model; what is tied counts once."""
        return self.outside + self.blocks * self.block

    @property
    def bytes(self) -> int:
        """Of the whole model's parameters as they are stored, all in one dtype."""
        return self.parameters * self.width

    def resized(self, **counts: int) -> Self:
        """With other blocks, neurons, heads or experts.

        Args:
            counts: which, and how many.
        """
        sizes: dict[str, Any] = dict(counts)
        return replace(self, **sizes)

    def said(self) -> str:
        """In words: 6 blocks, 504 neurons, 6 heads."""
        counts = {n: getattr(self, n) for n in ("blocks", "neurons", "heads", "experts")}
        return ", ".join(f"{number} {name}" for name, number in counts.items() if number)


def _check_alike(names: list[str], blocks: list[nn.Module]) -> None:
    """Whether all blocks have the same parameters."""
    first, *others = ({n: p.shape for n, p in b.named_parameters()} for b in blocks)
    for name, shapes in zip(names[1:], others, strict=True):
        if shapes != first:
            raise SteppeError(
                "one shape is that of all of a model's blocks",
                got=f"{name}, whose parameters are not those of {names[0]}",
                way_out="a model whose blocks are alike; steppe bench times any",
            )


def _counted(block: nn.Module) -> dict[str, Any]:
    """Neurons, heads and experts of a block, and the parameters of one of each."""
    found: dict[str, Any] = dict.fromkeys(
        ("neurons", "heads", "head_size", "experts", "per_neuron", "per_head", "per_expert"), 0
    )
    found["queries_per_key"] = 1
    for sublayer in sublayers_of(block):
        if sublayer.kind == "head":
            found["head_size"] = sublayer.head_size
            found["queries_per_key"] = sublayer.queries_per_key
    groups = {READS[group.kind]: group for group in _cut(block)}
    for kind, group in groups.items():
        found[kind], found[f"per_{kind[:-1]}"] = group.units, _of_one(block, group)
    return found | _mixture(block) | {"cuts": ("blocks", *groups)}


def _cut(module: nn.Module) -> list[Group]:
    """The groups whose units make the width of blocks; the neurons of a shared expert do not."""
    mixture = any(layer.stacked for layer in prunable(module)[0])
    return [g for g in transformer_groups(module) if g.kind == "head" or not mixture]


def _of_one(block: nn.Module, group: Group) -> int:
    """Parameters of one unit of a group."""
    sizes = {name: p.shape for name, p in block.named_parameters()}
    return sum(
        s.index.shape[1] * (sizes[s.name].numel() // sizes[s.name][s.dim]) for s in group.slices
    )


def _mixture(block: nn.Module) -> dict[str, int]:
    """Of experts that lie packed in one module: how many, their neurons, parameters of one."""
    stacks = [layer for layer in prunable(block)[0] if layer.stacked]
    if not stacks:
        return {}
    last = next((x for x in stacks if x.name.endswith("down_proj")), None)
    places = {x.name.rpartition(".")[0] for x in stacks}
    if last is None or len(places) > 1:
        raise SteppeError(
            "a mixture has one stack of experts in each block, with a down projection",
            got=", ".join(x.name for x in stacks),
            way_out="steppe bench, which times any model",
        )
    place, experts, neurons = places.pop(), last.shape[0], last.columns
    own = dict(block.get_submodule(place).named_parameters())
    fixed = [p for name, p in own.items() if name == "down_proj_bias"]
    wide = sum(p.numel() for p in own.values()) - sum(p.numel() for p in fixed)
    rows = [*fixed, *_routers(block.get_submodule(place.rpartition(".")[0]), experts)]
    return {
        "experts": experts,
        "neurons": neurons,
        "per_neuron": wide // neurons // experts,
        "per_expert": sum(p.numel() for p in rows) // experts,
    }


def _routers(mixture: nn.Module, experts: int) -> Iterator[nn.Parameter]:
    for name, module in mixture.named_children():
        if name in ROUTERS:
            yield from (p for p in module.parameters() if p.shape[0] == experts)


def skeleton_of(config: Any, shape: Shape, dtype: torch.dtype = torch.float32) -> Any:
    """The model of a shape without weights: the first blocks, in each the first units.

    Args:
        config: of the whole model; stays as it is.
        shape: that of the whole one, with fewer of what its ``cuts`` name.
        dtype: of the parameters.
    """
    model = skeleton(copy.deepcopy(config), dtype, experts=None)
    model.tie_weights()
    names = block_names(model)
    drop_blocks(model, names[shape.blocks :])
    groups = _cut(model)
    keep = {g.name: torch.arange(g.units) < getattr(shape, READS[g.kind]) for g in groups}
    sizes = {n: tuple(p.shape) for n, p in model.named_parameters(remove_duplicate=False)}
    if stays := positions(groups, keep, sizes):
        slice_model(model, stays)
    inside = (model.get_submodule(name).parameters() for name in names[: shape.blocks])
    assert sum(p.numel() for ps in inside for p in ps) == shape.blocks * shape.block, shape
    return model
