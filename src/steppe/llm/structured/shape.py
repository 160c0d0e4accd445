"""How deep and how wide a language model's blocks are, and what that makes in parameters."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, Slice, positions
from steppe.llm.architecture import block_names
from steppe.llm.skeleton import skeleton
from steppe.llm.structured.depth import drop_blocks
from steppe.llm.structured.readers import READS, groups_by_reader
from steppe.removal.mixtures import mixtures_of
from steppe.removal.surgery import slice_model
from steppe.removal.transformer_patterns import sublayers_of


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
        cuts: what `skeleton_of` can make fewer: ``neurons``, ``heads``,
            ``experts``, ``blocks``.

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
        return ", ".join(
            f"{number} {name.removesuffix('s') if number == 1 else name}"
            for name, number in self._counts().items()
        )

    @property
    def key(self) -> str:
        """What files know it by; stays as it is, since a stopped run goes on by it."""
        return ", ".join(f"{number} {name}" for name, number in self._counts().items())

    def _counts(self) -> dict[str, int]:
        counts = {n: int(getattr(self, n)) for n in ("blocks", "neurons", "heads", "experts")}
        return {name: number for name, number in counts.items() if number}


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
    sizes = {name: p.shape for name, p in block.named_parameters()}
    mixture, groups = next(mixtures_of(block), None), _groups(block)
    every = 1 if mixture is None else mixture.count
    counted = {kind: own[0] for kind, own in groups.items()}
    if mixture is not None:  # the neurons of a shared expert are none of the others'
        neurons = mixture.neurons()
        counted = {k: g for k, g in counted.items() if k != "neurons"}
        counted |= {} if neurons is None else {"neurons": neurons}
    for kind, group in counted.items():
        experts = every if group.slices[0].stacked else 1
        found[kind] = group.units // experts
        found[f"per_{kind[:-1]}"] = sum(_of_one(s, sizes[s.name], experts) for s in group.slices)
    if mixture is not None:
        inside = sum(sizes[n].numel() for n in mixture.tensors if n in sizes)
        own = found["neurons"] * found["per_neuron"]
        found |= {"experts": every, "per_expert": inside // every - own}
    alone = [kind for kind, own in groups.items() if len(own) == 1 and kind in counted]
    cuts = ("blocks", *alone, *(["experts"] if mixture is not None else []))
    return found | {"cuts": cuts}


def _of_one(s: Slice, shape: torch.Size, experts: int) -> int:
    """Parameters of one unit in one tensor."""
    return s.index.shape[1] * (shape.numel() // shape[s.dim]) // experts


def _groups(block: nn.Module) -> dict[str, list[Group]]:
    """Kind of units -> the groups of a block that have them, of which a shape has one number."""
    found: dict[str, list[Group]] = {}
    for group in groups_by_reader(block).values():
        found.setdefault(READS[group.kind], []).append(group)
    return found


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
    for block in (model.get_submodule(name) for name in names[: shape.blocks]):
        cut = {kind: groups[0] for kind, groups in _groups(block).items() if kind in shape.cuts}
        _narrow(block, {group: getattr(shape, kind) for kind, group in cut.items()})
        _narrow(block, {m.group(): shape.experts for m in mixtures_of(block)})
        assert sum(p.numel() for p in block.parameters()) == shape.block, shape
    return model


def _narrow(block: nn.Module, widths: Mapping[Group, int]) -> None:
    """Cut a block to the first units of some groups; those of each expert by themselves."""
    sizes = {n: tuple(t.shape) for n, t in (*block.named_parameters(), *block.named_buffers())}
    keep = {}
    for group, width in widths.items():
        first = group.slices[0]
        experts = sizes[first.name][0] if first.stacked else 1
        keep[group.name] = (torch.arange(group.units // experts) < width).repeat(experts)
    if stays := positions(list(widths), keep, sizes):
        slice_model(block, stays)
