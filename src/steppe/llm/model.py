"""A causal language model of which only the embeddings and one block are in memory."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterable, Iterator
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.device import device_of
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer, prunable
from steppe.core.serialization import atomic
from steppe.engine.host_memory import settle
from steppe.llm.checkpoint import Checkpoint, folder_of, write_index, write_shard
from steppe.llm.keys import REST, Keys
from steppe.llm.side_files import side_files
from steppe.llm.skeleton import (
    check_same,
    decoder_blocks,
    forget,
    patched,
    quiet,
    read_config,
    skeleton,
    take_hidden,
)

APART = 1 << 30
"""Bytes of what the model does not use that are in memory at once, and in a shard."""
_PLAIN_ATTENTION = 512  # tokens; beyond, the matrix of all pairs would take much memory
_OURS = {"record.json", "recipe.yaml", "journal.json", "evaluations.json", "export.json"}


class _Stop(Exception):
    """Raised by the first block's stand-in: what comes after it is not needed."""


class StreamedModel:
    """The decoder blocks of a causal language model, loaded one at a time.

    The model is built without memory for its weights. Blocks are called with the arguments that
    the model itself passes them: they are recorded, never rebuilt.

    Args:
        name: a folder with config.json and safetensors, or a hub id.
        device: where blocks compute.
        dtype: what they compute in; weights are written back in their stored dtype.

    Raises:
        SteppeError: it is no causal language model, or its weights are no safetensors.
    """

    def __init__(self, name: str, device: str = "cpu", dtype: torch.dtype = torch.float32) -> None:
        settle()
        self.folder = folder_of(name)
        self.device, self.dtype = device_of(device), dtype
        self.config = read_config(self.folder)
        self.checkpoint = Checkpoint(self.folder)
        with quiet():
            self.model = skeleton(self.config, dtype)
        self.prefix, self.blocks = decoder_blocks(self.model)
        self._keys = Keys(self.model, self.checkpoint, self.prefix, len(self.blocks))
        self._apart = self.checkpoint.portions(self._keys.extra, APART)
        self._calls: dict[tuple[int, int, int], tuple[tuple[Any, ...], dict[str, Any]]] = {}
        self._sample: Tensor | None = None
        self._extra: tuple[Any, ...] | None = None  # what blocks return beside the hidden states
        self._rest_loaded: set[str] = set()

    def __len__(self) -> int:
        return len(self.blocks)

    @property
    def vocabulary(self) -> int:
        """Rows of the embedding: token ids must be less."""
        rows: int = self.model.get_input_embeddings().weight.shape[0]
        return rows

    @property
    def hidden_size(self) -> int:
        """Width of the hidden states."""
        return int(self.config.get_text_config().hidden_size)

    @property
    def positions(self) -> int | None:
        """The longest window the model was made for, where its config says."""
        value = getattr(self.config.get_text_config(), "max_position_embeddings", None)
        return None if value is None else int(value)

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
            names = {n for x in every for n in (x.name, x.name.rpartition(".")[0])}
            if not any(fnmatchcase(name, pattern) for name in names):
                raise SteppeError(
                    "a pattern must match a layer inside of the decoder blocks",
                    got=repr(pattern),
                    consequence="it would silently do nothing: all else stays dense anyway",
                    way_out=f"names look like {', '.join(x.name for x in every[:3])}",
                )
        return self._inside(prunable(self.model, include, exclude)[0])

    def _inside(self, layers: list[Layer]) -> list[Layer]:
        inside = []
        for layer in layers:
            block = layer.name.removeprefix(f"{self.prefix}.").split(".")[0]
            if layer.name.startswith(f"{self.prefix}.") and block.isdigit():
                name = f"{self.prefix}.{block}"
                inside.append(Layer(layer.name, layer.shape, layer.transposed, layer.stacked, name))
        return inside

    def left_dense(self) -> list[str]:
        """Patterns of the packed matrices in the blocks that `layers` does not know.

        Modules differ in which dimension is which (Llama 4's experts, JetMoe's), and only those
        that say it are prunable.
        """
        known = {id(p) for p in prunable(self.model)[1].values()}
        patterns: dict[str, None] = {}
        for name, p in self.blocks.named_parameters():
            if p.ndim == 3 and min(p.shape) > 1 and id(p) not in known:
                patterns[f"{self.prefix}.*.{name.partition('.')[2]}"] = None
        return list(patterns)

    def parameters(self) -> int:
        """How many the model has; what is tied counts once."""
        named = dict(self.model.named_parameters(remove_duplicate=False))
        return sum({id(named[n]): named[n].numel() for n in self.stored_names(named)}.values())

    def stored_names(self, names: Iterable[str]) -> set[str]:
        """Parameters by the names under which the checkpoint holds them: what is tied has one."""
        return {self._keys.ties.get(n, n) for n in names}

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
        block = self.blocks[index]
        self._keys.fill(self._keys.of[index], self.dtype)
        self._keys.check_filled(self._named(index, buffers=True))
        block.requires_grad_(False)
        block.to(self.device)
        return block.eval()

    def _named(self, index: int, buffers: bool = False) -> dict[str, Tensor]:
        block = self.blocks[index]
        own = [*block.named_parameters(), *(block.named_buffers() if buffers else ())]
        return {f"{self.prefix}.{index}.{name}": tensor for name, tensor in own}

    def free(self, index: int) -> None:
        """Forget a block's weights."""
        forget(self.blocks[index])

    def stored(self, index: int) -> dict[str, Tensor]:
        """A block's weights as they are written: the checkpoint's names and dtypes."""
        state = self.blocks[index].state_dict()
        return self._keys.written({f"{self.prefix}.{index}.{n}": t for n, t in state.items()})

    @torch.no_grad()
    def round(self, index: int) -> None:
        """Give a block the values that its stored dtype can hold: what follows sees those."""
        for name, p in self._named(index).items():
            stored = self._keys.dtype(name)
            if stored != self.dtype:
                p.copy_(p.to(stored))

    @property
    def _shards(self) -> int:
        """Shards of the new model: the blocks, the rest, and what the model does not use."""
        return len(self) + 1 + len(self._apart)

    def write(self, index: int, out: Path) -> None:
        """A block as its shard of the new model."""
        write_shard(out, index + 1, self._shards, self.stored(index))

    def write_rest(self, out: Path) -> int:
        """Embeddings, head, config and tokenizer as they were, and the index; bytes of weights."""
        for number, keys in enumerate([self._keys.of[REST], *self._apart], len(self) + 1):
            write_shard(out, number, self._shards, self.checkpoint.read(keys))
        for name in side_files(self.folder):
            if name not in _OURS:
                with atomic(out / name) as temporary:
                    shutil.copyfile(self.folder / name, temporary)
        return write_index(out, self._shards)

    # running it

    @contextlib.contextmanager
    def fitting(self, low_precision: bool) -> Iterator[None]:
        """While a block is optimised: attention in the form whose gradient is the fastest.

        On CPUs torch's fused attention has a slow backward pass in bfloat16; for short windows
        the plain products are faster and their memory is small.
        """
        window = 0 if self._sample is None else self._sample.shape[1]
        plain = low_precision and self.device.type == "cpu" and window <= _PLAIN_ATTENTION
        implementation = self.config._attn_implementation
        if not plain or implementation == "eager":
            yield
            return
        calls, self._calls = self._calls, {}
        self.model.set_attn_implementation("eager")
        try:
            yield
        finally:
            self.model.set_attn_implementation(implementation)
            self._calls = calls

    def _load_rest(self, head: bool) -> None:
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
        for name, module in self.model.named_modules():
            if not name.startswith(f"{self.prefix}.") and name != self.prefix:
                for p in module.parameters(recurse=False):
                    p.requires_grad_(False)
                    p.data = p.data.to(self.device) if not p.is_meta else p.data
                for key, b in module.named_buffers(recurse=False):
                    setattr(module, key, b.to(self.device))

    def free_rest(self) -> None:
        """Forget the embeddings and the head too."""
        kept = {id(m) for b in self.blocks for m in b.modules()}
        for module in self.model.modules():
            if id(module) not in kept:
                forget(module, recurse=False)
        self._rest_loaded.clear()

    def _run(self, tokens: Tensor) -> Any:
        with torch.no_grad():
            return self.model(input_ids=tokens.to(self.device), use_cache=False)

    def embed(self, tokens: Tensor) -> Tensor:
        """Token ids ``[batch, window]`` -> the first block's inputs ``[batch, window, hidden]``.

        Raises:
            SteppeError: blocks get arguments that depend on the text.
        """
        self._load_rest(head=False)
        if self._sample is None or tokens.shape[1] > self._sample.shape[1]:
            self._sample = tokens[:1].clone()
        seen: list[Tensor] = []

        def stop(*args: Any, **kwargs: Any) -> None:
            hidden, args, kwargs = take_hidden(args, kwargs)
            key = (0, *hidden.shape[:2])
            if key in self._calls:
                check_same(self._calls[key], (args, kwargs))
            self._calls[key] = (args, kwargs)
            seen.append(hidden)
            raise _Stop

        with patched({0: stop}, self.blocks), contextlib.suppress(_Stop):
            self._run(tokens)
        return seen[0]

    def _record(self, batch: int, window: int) -> None:
        assert self._sample is not None
        if self._extra is None:
            self._probe()
        self._load_rest(head=False)

        def recorder(index: int) -> Any:
            def record(*args: Any, **kwargs: Any) -> Any:
                hidden, args, kwargs = take_hidden(args, kwargs)
                self._calls[index, batch, window] = (args, kwargs)
                if index == len(self.blocks) - 1:
                    raise _Stop
                return self._returned(hidden)

            return record

        stand_ins = {i: recorder(i) for i in range(len(self.blocks))}
        with patched(stand_ins, self.blocks), contextlib.suppress(_Stop):
            self._run(self._sample[:, :window].expand(batch, window))

    def _probe(self) -> None:
        """Run the first block once, to see whether it returns a tensor or a tuple."""
        assert self._sample is not None
        absent = any(p.is_meta for p in self.blocks[0].parameters())
        if absent:
            self.load(0)
        with torch.no_grad():
            self.call(0, self.embed(self._sample))
        if absent:
            self.free(0)

    def _returned(self, hidden: Tensor) -> Any:
        return (hidden, *self._extra) if self._extra else hidden

    def arguments(self, index: int, batch: int, window: int) -> tuple[tuple[Any, ...], Any]:
        """What the model passes to a block beside the hidden states, for a shape of them."""
        if (index, batch, window) not in self._calls:
            if index == 0:
                assert self._sample is not None
                self.embed(self._sample[:, :window].expand(batch, window))
            else:
                self._record(batch, window)
        return self._calls[index, batch, window]

    def call(self, index: int, hidden: Tensor, block: nn.Module | None = None) -> Tensor:
        """A block's outputs for its inputs, both ``[batch, window, hidden]``."""
        args, kwargs = self.arguments(index, hidden.shape[0], hidden.shape[1])
        returned = (block or self.blocks[index])(hidden, *args, **kwargs)
        if isinstance(returned, tuple):
            self._extra = tuple(None for _ in returned[1:])
            returned = returned[0]
            assert isinstance(returned, Tensor)
            return returned
        self._extra = ()
        assert isinstance(returned, Tensor)
        return returned

    def head(self, hidden: Tensor) -> Tensor:
        """Final norm and output layer: the last block's outputs ``[rows, hidden]`` -> logits."""
        rows = min(self.positions or 2048, 2048)
        ids = torch.zeros(1, rows, dtype=torch.int64)
        parts = [self.logits(ids[:, : len(part)], part[None])[0] for part in hidden.split(rows)]
        return torch.cat(parts)

    def logits(self, tokens: Tensor, hidden: Tensor) -> Tensor:
        """What the model makes of the last block's outputs, ``[batch, window, vocabulary]``."""
        self._load_rest(head=True)

        def first(*args: Any, **kwargs: Any) -> Any:
            return self._returned(hidden)

        def through(*args: Any, **kwargs: Any) -> Any:
            return self._returned(take_hidden(args, kwargs)[0])

        stand_ins = dict.fromkeys(range(len(self.blocks)), through) | {0: first}
        with patched(stand_ins, self.blocks):
            logits: Tensor = self._run(tokens).logits
        return logits
