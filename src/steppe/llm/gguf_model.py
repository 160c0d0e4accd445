"""What GGUF says of a language model: architecture, sizes, and each tensor's name and rows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError

_ATTENTION = tuple(f"self_attn.{name}_proj.bias" for name in "qkv")
_ALL = (*_ATTENTION, "self_attn.o_proj.bias", "mlp.gate_proj.bias", "mlp.up_proj.bias")
DENSE_OUT = "steppe export --to compact keeps it smaller on disk, steppe.load runs it"


@dataclass(frozen=True, kw_only=True)
class Family:
    """One kind of model, and how llama.cpp reads it.

    Args:
        architecture: its name there.
        unequal: the architecture that takes blocks of different sizes, "" where there is none.
        interleaved: whether the two numbers that a rotation mixes are neighbours; in transformers
            they lie half a head apart.
        square: whether heads times their size must be the model's width.
        biases: those that are read, by the ends of their keys.
    """

    architecture: str
    unequal: str = ""
    interleaved: bool = False
    square: bool = False
    biases: tuple[str, ...] = _ATTENTION


_LLAMA = Family(
    architecture="llama",
    unequal="deci",
    interleaved=True,
    biases=(*_ALL, "mlp.down_proj.bias"),
)
FAMILIES = {
    "llama": _LLAMA,
    "mistral": _LLAMA,
    "qwen2": Family(architecture="qwen2", square=True),
    "qwen3": Family(architecture="qwen3"),
}
"""By transformers' ``model_type``."""


@dataclass(frozen=True, kw_only=True)
class Blocks:
    """Sizes of the decoder blocks, as the weights have them.

    Args:
        heads: of queries, per block.
        key_heads: of keys and values, per block.
        neurons: per block.
        head_size: numbers per head.
    """

    heads: tuple[int, ...]
    key_heads: tuple[int, ...]
    neurons: tuple[int, ...]
    head_size: int

    @property
    def equal(self) -> bool:
        """Whether all blocks have the same sizes."""
        return all(len(set(sizes)) == 1 for sizes in (self.heads, self.key_heads, self.neurons))

    @classmethod
    def of(cls, config: Any, shapes: Mapping[str, torch.Size]) -> Blocks:
        """Read from the shapes of a checkpoint, so that removed heads and neurons count."""
        size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads

        def rows(name: str) -> tuple[int, ...]:
            keys = (f"model.layers.{i}.{name}.weight" for i in range(config.num_hidden_layers))
            return tuple(shapes[key][0] if key in shapes else 0 for key in keys)

        return cls(
            heads=tuple(n // size for n in rows("self_attn.q_proj")),
            key_heads=tuple(n // size for n in rows("self_attn.k_proj")),
            neurons=rows("mlp.gate_proj"),
            head_size=size,
        )


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One tensor of the file.

    Args:
        key: in the checkpoint.
        name: in the file.
        shape: as torch says it.
        dtype: as it is written.
        heads: whose rows change places; 0 where rows stay.
    """

    key: str
    name: str
    shape: torch.Size
    dtype: torch.dtype
    heads: int = 0

    def written(self, stored: Tensor) -> Tensor:
        """What the file holds of a tensor of the checkpoint.

        Raises:
            SteppeError: numbers are too large for the dtype.
        """
        cast = stored.to(self.dtype)
        if bool((stored.isfinite() & ~cast.isfinite()).any()):
            raise SteppeError(
                "weights must stay finite in the file's dtype",
                got=f"{self.key}, whose largest is {float(stored.abs().max()):g}, in float16",
                way_out="--dtype f32, or bf16",
            )
        return interleave(cast, self.heads) if self.heads else cast

    def stored(self, written: Tensor) -> Tensor:
        """The inverse of `written`, but for rounding."""
        return interleave(written, self.heads, undo=True) if self.heads else written


def interleave(weight: Tensor, heads: int, undo: bool = False) -> Tensor:
    """Rows of a query or key matrix so that the two of each rotation are neighbours.

    Args:
        weight: [heads * size] or [heads * size, inputs].
        heads: how many there are.
        undo: back again.

    Example:
        >>> interleave(torch.arange(8), 2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
        >>> interleave(torch.tensor([0, 2, 1, 3]), 1, undo=True).tolist()
        [0, 1, 2, 3]
    """
    each: Tensor = weight.unflatten(0, (heads, -1))
    order = torch.arange(each.shape[1]).view(2, -1).t().reshape(-1)
    return each[:, order.argsort() if undo else order].flatten(0, 1)


def family_of(config: Any, shapes: Mapping[str, torch.Size]) -> tuple[Family, str, Blocks]:
    """A model's family, its architecture's name in GGUF, and the sizes of its blocks.

    Raises:
        SteppeError: llama.cpp has no architecture that takes it, or this export does not write it.
    """
    family = FAMILIES.get(config.model_type)
    if family is None:
        raise SteppeError(
            f"--to gguf writes models of type {', '.join(FAMILIES)}",
            got=config.model_type,
            way_out="convert the folder with llama.cpp's own convert_hf_to_gguf.py",
        )
    if config.hidden_act != "silu":
        raise _cannot("another activation than silu", config.hidden_act)
    blocks = Blocks.of(config, shapes)
    if 0 in (*blocks.heads, *blocks.key_heads, *blocks.neurons):
        raise _cannot("a block without heads or neurons", blocks)
    architecture = family.architecture if blocks.equal else family.unequal
    if not architecture:
        different = next(s for s in (blocks.neurons, blocks.heads) if len(set(s)) > 1)
        raise _cannot(f"blocks of different sizes in a {config.model_type}", list(different))
    if family.square and blocks.heads[0] * blocks.head_size != config.hidden_size:
        got = f"{blocks.heads[0]} of {blocks.head_size} in {config.hidden_size}"
        raise _cannot(f"removed heads in a {config.model_type}", got)
    return family, architecture, blocks


def _cannot(what: str, got: object) -> SteppeError:
    return SteppeError(f"llama.cpp's GGUF cannot say {what}", got=got, way_out=DENSE_OUT)


def entries_of(
    gguf: Any,
    config: Any,
    kinds: Mapping[str, tuple[torch.dtype, torch.Size]],
    dtype: torch.dtype | None,
) -> list[Entry]:
    """Every tensor of the file, in the checkpoint's order.

    Args:
        gguf: the package.
        config: of transformers.
        kinds: dtype and shape of each key of the checkpoint.
        dtype: of matrices; None, as they are stored. Vectors are float32 always: llama.cpp
            multiplies by nothing else.

    Raises:
        SteppeError: a tensor has no place in the file.
    """
    family, architecture, blocks = family_of(config, {key: kind[1] for key, kind in kinds.items()})
    number = {name: n for n, name in gguf.MODEL_ARCH_NAMES.items()}[architecture]
    names = gguf.get_tensor_name_map(number, config.num_hidden_layers)
    entries = []
    for key, (stored, shape) in kinds.items():
        if key.endswith("inv_freq") or (key == "lm_head.weight" and config.tie_word_embeddings):
            continue  # computed from the config; the embedding once more
        name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        if name is None or (key.endswith(".bias") and not key.endswith(family.biases)):
            raise _cannot(f"every tensor of a {config.model_type}", key)
        wanted = torch.float32 if len(shape) < 2 else dtype or stored
        if wanted not in (torch.float32, torch.float16, torch.bfloat16):
            raise SteppeError(
                "GGUF holds weights as f32, f16 or bf16 here",
                got=f"{str(wanted).removeprefix('torch.')} in {key}",
                way_out="--dtype f32",
            )
        rotated = _rotated(key, family, blocks)
        entries.append(Entry(key=key, name=name, shape=shape, dtype=wanted, heads=rotated))
    return entries


def _rotated(key: str, family: Family, blocks: Blocks) -> int:
    """The heads whose rows change places in a tensor."""
    if not family.interleaved or ".self_attn." not in key:
        return 0
    block = int(key.split(".")[2])
    of = {"q_proj": blocks.heads, "k_proj": blocks.key_heads}.get(key.split(".")[-2])
    return of[block] if of else 0


def rope_of(config: Any) -> dict[str, Any]:
    """Type, base and scaling of the rotary embedding, wherever this transformers has them."""
    rope = dict(getattr(config, "rope_parameters", None) or {})
    rope |= getattr(config, "rope_scaling", None) or {}
    rope.setdefault("rope_theta", getattr(config, "rope_theta", 10000.0))
    rope.setdefault("rope_type", rope.get("type", "default"))
    return rope


def rope_factors(config: Any, head_size: int) -> Tensor | None:
    """What each frequency is divided by, where that is not one number for all.

    Returns:
        [head_size / 2], or None.

    Raises:
        SteppeError: the scaling is of a kind that is not written.
    """
    rope = rope_of(config)
    if rope["rope_type"] in ("default", "linear"):
        return None
    if rope["rope_type"] != "llama3" or FAMILIES[config.model_type].architecture != "llama":
        raise _cannot(f"this rotary embedding of a {config.model_type}", rope["rope_type"])
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain: Tensor = rope["rope_theta"] ** -(torch.arange(0, head_size, 2).float() / head_size)
    factors: Tensor = plain / scaled.float()
    return factors


def describe(gguf: Any, writer: Any, config: Any, blocks: Blocks) -> list[str]:
    """Write a model's sizes into a file's header.

    Returns:
        Sentences on what the file says otherwise than the model.
    """
    notes = []
    context = config.max_position_embeddings
    window = getattr(config, "sliding_window", None)
    if getattr(config, "use_sliding_window", True) and window and window < context:
        notes.append(
            f"attention looks back {window} tokens; llama.cpp's {writer.arch} looks back at all, "
            f"so the file's context is {window} instead of {context}"
        )
        context = window
    rope = rope_of(config)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(context)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(_one(blocks.neurons))
    writer.add_head_count(_one(blocks.heads))
    writer.add_head_count_kv(_one(blocks.key_heads))
    writer.add_key_length(blocks.head_size)
    writer.add_value_length(blocks.head_size)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(blocks.head_size)
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if rope["rope_type"] == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    writer.add_vocab_size(config.vocab_size)
    return notes


def _one(sizes: Iterable[int]) -> int | list[int]:
    every = list(sizes)
    return every[0] if len(set(every)) == 1 else every
