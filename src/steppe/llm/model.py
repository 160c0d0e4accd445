"""A language model of which only the embeddings and one block are in memory, where it can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.patterns import matches
from steppe.core.prunable import prunable, selection
from steppe.llm.architecture import (
    OWN_LOOP,
    answers_in_tokens,
    arguments,
    block_names,
    dense_in,
    other_lists,
)
from steppe.llm.checkpoint import Checkpoint, folder_of, shard_name, write_index, write_shard
from steppe.llm.keys import REST, Keys
from steppe.llm.perplexity import positions_of
from steppe.llm.self_check import Verdict, check_stream
from steppe.llm.side_files import copy_side_files
from steppe.llm.skeleton import forget, quiet, read_config, skeleton
from steppe.llm.stream import Stream
from steppe.llm.structured.readers import marked
from steppe.llm.whole import Whole

APART = 1 << 30
"""Bytes of what the model does not use that are in memory at once, and in a shard."""


class StreamedModel:
    """The blocks of a language model, loaded one at a time where that is what the model computes.

    The model is built without memory for its weights. Blocks are called with the arguments that
    the model itself passes them: they are recorded, never rebuilt. Where something else than the
    hidden states goes from block to block, the whole model is loaded (`decide`).

    Args:
        name: a folder with config.json and safetensors, or a hub id.
        device: where blocks compute.
        dtype: what they compute in; weights are written back in their stored dtype.
        streamed: ``always`` a block at a time, ``never`` (the whole model in memory), or ``auto``:
            a block at a time where it can be.

    Raises:
        SteppeError: text does not run it, or its weights are no safetensors.
    """

    def __init__(
        self,
        name: str,
        device: str = "cpu",
        dtype: torch.dtype = torch.float32,
        streamed: str = "auto",
    ) -> None:
        self.folder = folder_of(name)
        self.device, self.dtype = device_of(device), dtype
        self.config = read_config(self.folder)
        self.checkpoint = Checkpoint(self.folder)
        with quiet():
            self.model = skeleton(self.config, dtype)
        self.names = block_names(self.model)
        self.blocks = nn.ModuleList(self.model.get_submodule(name) for name in self.names)
        self._keys = Keys(self.model, self.checkpoint, self.names)
        self._apart = self.checkpoint.portions(self._keys.extra, APART)
        self._rest_loaded: set[str] = set()
        self.streamed = streamed
        self.verdict: Verdict | None = None
        self.passes: Stream | Whole = Stream(self)

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def prefix(self) -> str:
        """Names of the lists that the blocks are in."""
        return ", ".join(dict.fromkeys(name.rpartition(".")[0] for name in self.names))

    @property
    def predicts(self) -> bool:
        """Whether it predicts each next token, so that it has a perplexity."""
        return answers_in_tokens(self.model)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids must be less."""
        return int(self._embedding.shape[0])

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        width = getattr(self.config.get_text_config(), "hidden_size", None)
        return int(self._embedding.shape[1] if width is None else width)

    @property
    def _embedding(self) -> Tensor:
        try:
            weight: Tensor = self.model.get_input_embeddings().weight
        except (NotImplementedError, AttributeError) as error:
            raise SteppeError(
                "a language model has one table of embeddings for its token ids",
                got=f"none in {type(self.model).__name__}",
                way_out=OWN_LOOP,
            ) from error
        return weight

    @property
    def positions(self) -> int | None:
        """The longest window the model was made for, where its config says."""
        return positions_of(self.model)

    def window(self, asked: int | None) -> int:
        """Tokens in a window: what is asked for, or 2048, or the positions if they are fewer.

        Raises:
            SteppeError: the model has not as many positions, or the window predicts nothing.
        """
        most = min(2048, self.positions or 2048)
        if asked is not None and asked < 2:
            raise SteppeError(
                "a window has two tokens at least: one predicts the other",
                got=f"a window of {asked}",
                way_out=f"--window {most}",
            )
        if asked is not None and self.positions is not None and asked > self.positions:
            raise SteppeError(
                "a window must not be longer than the model's positions",
                got=f"a window of {asked} for a model of {self.positions}",
                way_out=f"--window {self.positions}",
            )
        return most if asked is None else asked

    def layers(self, include: tuple[str, ...] = (), exclude: tuple[str, ...] = ()) -> list[Layer]:
        """The prunable layers of the decoder blocks; nothing outside of them.

        Raises:
            SteppeError: a pattern matches none of them, or none is left.
        """
        every = self._inside(prunable(self.model)[0])
        for pattern in (*include, *exclude):
            if not any(matches(x.name, pattern) for x in every):
                raise SteppeError(
                    "a pattern must match a layer inside of the decoder blocks",
                    got=repr(pattern),
                    consequence="it would silently do nothing: all else stays dense anyway",
                    way_out=f"names look like {', '.join(x.name for x in every[:3])}",
                )
        return self._inside(prunable(self.model, include, exclude)[0])

    def _inside(self, layers: list[Layer]) -> list[Layer]:
        owner = {id(p): n for n, b in self._reached() for p in b.parameters()}
        block = {n: owner.get(id(p)) for n, p in self.model.named_parameters()}
        own = [x for x in layers if block.get(x.name) is not None and x.plain]
        return marked(self.model, [replace(x, block=str(block[x.name])) for x in own])

    def _reached(self) -> Iterator[tuple[str, nn.Module]]:
        for index, (name, block) in enumerate(zip(self.names, self.blocks, strict=True)):
            if index not in self.passes.skipped:
                yield name, block

    def left_dense(self) -> dict[str, str]:
        """Patterns of what in the model's text part is not pruned, with the reasons.

        Modules differ in which dimension of a packed matrix is which (Llama 4's experts,
        JetMoe's), and only those that say it are prunable.
        """
        chosen = selection(self.model)
        known = {id(p) for p in chosen.weights.values()}
        left = dense_in(chosen, [name for name, _ in self._reached()])
        for block_name, block in self._reached():
            for name, p in block.named_parameters():
                if p.ndim == 3 and min(p.shape) > 1 and id(p) not in known:
                    pattern = f"{block_name.rpartition('.')[0]}.*.{name}"
                    left[pattern] = "dense, its layout is unknown"
        for index in self.passes.skipped:
            left[self.names[index]] = "dense, text alone does not reach it"
        for name in other_lists(self.model, self.names):
            left[name] = "dense, it is none of the decoder blocks"
        return left

    def parameters(self) -> int:
        """How many the model has; what is tied counts once."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        return sum({id(named[n]): named[n].numel() for n in self.stored_names(named)}.values())

    def stored_names(self, names: Iterable[str]) -> set[str]:
        """Parameters by the names under which the checkpoint holds them: what is tied has one."""
        return {self._keys.ties.get(n, n) for n in names}

    def stored_keys(self, *names: str, blocks: bool = True) -> set[str]:
        """The checkpoint's tensors that these or all parameters, or those outside, are made of."""
        inside = {id(p) for p in self.blocks.parameters()}
        named = self.model.named_parameters(remove_duplicate=False)
        return self._keys.keys_of(names or (n for n, p in named if blocks or id(p) not in inside))

    def stored_dtype(self, name: str) -> torch.dtype:
        """A parameter's dtype in the checkpoint."""
        return self._keys.dtype(name)

    def unused(self) -> list[str]:
        """What the checkpoint holds beside the model, such as layers that its config counts not."""
        return self._keys.unused()

    # weights in and out

    def load(self, index: int) -> nn.Module:
        """A block with its weights, on the device, in evaluation mode.

        Raises:
            SteppeError: the checkpoint lacks some of its weights.
        """
        if isinstance(self.passes, Stream):
            self.read(index)
        return self.blocks[index].eval()

    def read(self, index: int, pruned: Path | None = None) -> None:
        """A block's weights from the checkpoint, or from the folder in which it is pruned."""
        if pruned is None:
            self._keys.fill(self._keys.of[index], self.dtype)
        else:
            shard = pruned / shard_name(index + 1, self.shards)
            self._keys.take(load_file(shard), self.dtype)
        self._keys.check_filled(self._named(index, buffers=True))
        self.blocks[index].requires_grad_(False).to(self.device)

    def _named(self, index: int, buffers: bool = False) -> dict[str, Tensor]:
        block = self.blocks[index]
        own = [*block.named_parameters(), *(block.named_buffers() if buffers else ())]
        return {f"{self.names[index]}.{name}": tensor for name, tensor in own}

    def free(self, index: int) -> None:
        """Forget a block's weights, if it is alone in memory."""
        if isinstance(self.passes, Stream):
            forget(self.blocks[index])

    def stored(self, index: int) -> dict[str, Tensor]:
        """A block's weights as they are written: the checkpoint's names and dtypes."""
        state = self.blocks[index].state_dict()
        return self._keys.written({f"{self.names[index]}.{n}": t for n, t in state.items()})

    @torch.no_grad()
    def round(self, index: int) -> None:
        """Give a block the values that its stored dtype can hold: what follows sees those."""
        for name, p in self._named(index).items():
            stored = self._keys.dtype(name)
            if stored != self.dtype:
                p.copy_(p.to(stored))

    @property
    def shards(self) -> int:
        """Shards of the new model: the blocks, the rest, and what the model does not use."""
        return len(self) + 1 + len(self._apart)

    def write(self, index: int, out: Path) -> None:
        """A block as its shard of the new model."""
        write_shard(out, index + 1, self.shards, self.stored(index))

    def write_rest(
        self, out: Path, trained: Mapping[str, Tensor] | None = None, blocks: int | None = None
    ) -> int:
        """What lies outside of the blocks, as it was or ``trained``, and the index; their bytes.

        It comes behind so many ``blocks``; those of the model if not given.
        """
        blocks = len(self) if blocks is None else blocks
        of = self.shards - len(self) + blocks
        for number, keys in enumerate([self._keys.of[REST], *self._apart], blocks + 1):
            new = self._keys.replaced(trained or {}) if number == blocks + 1 else {}
            write_shard(out, number, of, self.checkpoint.read(keys) | new)
        copy_side_files(self.folder, out)
        return write_index(out, of)

    # running it

    def load_rest(self, head: bool) -> None:
        """Embeddings and all else outside of the blocks, with or without the head."""
        output = self.model.get_output_embeddings()
        own_head = {id(p) for p in output.parameters()} if output is not None and not head else ()
        inside = {id(p) for b in self.blocks for p in b.parameters()}
        named = dict(self.model.named_parameters(remove_duplicate=False))
        outside = {n: p for n, p in named.items() if id(p) not in inside and id(p) not in own_head}
        absent = [n for n, p in outside.items() if p.is_meta]
        if not absent or (head and "head" in self._rest_loaded):
            return
        self._rest_loaded.add("head" if head else "body")
        ends = self._keys.keys_of(n for n, p in named.items() if id(p) in own_head)
        ends -= self._keys.keys_of(outside)
        self._keys.fill([k for k in self._keys.of[REST] if k not in ends], self.dtype)
        self._keys.tie()
        blocks = {id(m) for b in self.blocks for m in b.modules()}
        for module in self.model.modules():
            if id(module) not in blocks:
                for p in module.parameters(recurse=False):
                    p.requires_grad_(False)
                    p.data = p.data.to(self.device) if not p.is_meta else p.data
                for key, b in module.named_buffers(recurse=False):
                    setattr(module, key, b.to(self.device))

    def free_rest(self) -> None:
        """Forget the embeddings and the head too, and blocks that are still there."""
        forget(self.model)
        self._rest_loaded.clear()

    def run(self, tokens: Tensor) -> Any:
        """What the model makes of token ids; all that it needs must be in memory.

        An encoder and a decoder both get them.
        """
        with torch.no_grad():
            return self.model(**arguments(self.model, tokens.to(self.device)))

    def decide(self, window: int, loading: Callable[[str], None] = lambda why: None) -> Verdict:
        """Whether blocks are streamed or the whole model is loaded; the walk is checked.

        Args:
            window: tokens in a text.
            loading: called before the whole model is loaded, with the reason; may refuse.

        Raises:
            SteppeError: the walk is untrue, or streaming is asked for and cannot be.
        """
        if self.verdict is not None:
            return self.verdict
        stream, verdict = Stream(self), Verdict(0.0, "it was asked for")
        if self.streamed != "never":
            verdict = check_stream(self, stream, window)
        self.passes = stream
        if verdict.reason is not None:
            if self.streamed == "always":
                raise SteppeError(
                    "only hidden states may go from one streamed block to the next",
                    got=verdict.reason,
                    way_out="--streamed never, with the whole model in memory",
                )
            loading(verdict.reason)
            self.passes = Whole(self)
            verdict = Verdict(self.passes.check(window), verdict.reason)
        self.verdict = verdict
        return verdict

    # the passes, by their names here

    def inputs(self, index: int, tokens: Tensor) -> Tensor:
        """What a block gets for token ids ``[batch, window]``; see `Stream` and `Whole`."""
        return self.passes.inputs(index, tokens)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids -> the first block's inputs ``[batch, window, hidden]``."""
        return self.passes.inputs(0, tokens)

    def call(self, index: int, state: Tensor, block: nn.Module | None = None) -> Tensor:
        """A block's outputs for what it gets."""
        return self.passes.call(index, state, block)

    def after(self, index: int, state: Tensor, tokens: Tensor) -> Tensor:
        """What the next block gets."""
        return self.passes.after(index, state, tokens)

    def state_shape(self, window: int) -> tuple[int, ...]:
        """Of what a block gets for one window."""
        return self.passes.state_shape(window)

    @property
    def chained(self) -> bool:
        """Whether a block's outputs are what the next one gets."""
        return self.passes.chained

    def restore(self, done: int, folder: Path) -> None:
        """Make the model as it was when so many blocks were pruned into a folder."""
        self.passes.restore(done, folder)

    def fitting(self, low_precision: bool) -> AbstractContextManager[None]:
        """While a block is optimised; see `Stream`."""
        return self.passes.fitting(low_precision)

    def _stream(self) -> Stream:
        assert isinstance(self.passes, Stream), "the whole model is in memory"
        return self.passes

    def logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """What the model makes of the last block's outputs; see `Stream`."""
        return self._stream().logits(tokens, hidden)

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and output layer, row by row; see `Stream`."""
        return self._stream().head(hidden)
