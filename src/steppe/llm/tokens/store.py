"""Tokens in shards on disk: written one after the other, read at any place."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.serialization import atomic, read_json, write_text

SHARD = 1 << 22
"""Tokens after which a shard is written; what a kill costs at most."""
_OPEN = 64
"""Shards that are open at once."""
_INDEX = "index.json"


@dataclass(frozen=True, kw_only=True)
class Index:
    """What a folder of shards holds.

    Args:
        shards: tokens in each.
        dtype: of the ids, uint16 where the vocabulary fits.
        least, most: the smallest and the largest id.
        document, letters: where the text goes on: a document's number, letters of it before.
        read: bytes of text (in UTF-8) that were tokenised.
        complete: whether the text ended.
    """

    shards: tuple[int, ...] = ()
    dtype: str = "uint16"
    least: int = 1 << 32
    most: int = -1
    document: int = 0
    letters: int = 0
    read: int = 0
    complete: bool = False


class TokenStore:
    """The tokens of a text.

    Args:
        folder: of the shards.
        dtype: of the ids, where the folder is new.

    Example:
        >>> import tempfile
        >>> store = TokenStore(Path(tempfile.mkdtemp()))
        >>> store.add(np.arange(10), document=1)
        >>> len(store), store.read(3, 4)
        (10, tensor([3, 4, 5, 6]))
    """

    def __init__(self, folder: Path, dtype: str = "uint16") -> None:
        self.folder, self._dtype = folder, dtype
        self._shard = functools.lru_cache(_OPEN)(self._opened)
        stored = read_json(folder / _INDEX) if (folder / _INDEX).exists() else {"shards": ()}
        self._know(Index(**{"dtype": dtype} | stored | {"shards": tuple(stored["shards"])}))

    def _know(self, index: Index) -> None:
        self.index, self._ends = index, list(itertools.accumulate(index.shards))

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, start: int, length: int) -> Tensor:
        """Some of the tokens, int64; only their bytes are read.

        Raises:
            SteppeError: a shard is damaged.
        """
        assert 0 <= start <= start + length <= len(self), "tokens that are not there"
        parts = []
        while length:
            number = bisect.bisect_right(self._ends, start)
            begin = start - (self._ends[number - 1] if number else 0)
            some = min(length, self.index.shards[number] - begin)
            parts.append(self._shard(number)[begin : begin + some].astype(np.int64))
            start, length = start + some, length - some
        return torch.from_numpy(np.concatenate(parts)) if parts else torch.empty(0).long()

    def add(self, ids: Any, **known: Any) -> None:
        """One more shard, whole or not at all; then the index that knows it.

        Args:
            ids: its tokens; none for no shard.
            known: fields of the index that are others now.
        """
        index = dataclasses.replace(self.index, **known)
        if len(ids):
            path = self._path(len(index.shards))
            with atomic(path) as temporary:
                save_file({"tokens": np.asarray(ids).astype(index.dtype)}, temporary)
            index = dataclasses.replace(
                index,
                shards=(*index.shards, len(ids)),
                least=min(index.least, int(np.min(ids))),
                most=max(index.most, int(np.max(ids))),
            )
        self._keep(index)

    def clear(self) -> None:
        """Forget all tokens; the index first, which alone says that there are any."""
        shards = range(len(self.index.shards))
        self._keep(Index(dtype=self._dtype))
        self._shard.cache_clear()
        for number in shards:
            self._path(number).unlink(missing_ok=True)

    def _keep(self, index: Index) -> None:
        write_text(self.folder / _INDEX, json.dumps(dataclasses.asdict(index)) + "\n")
        self._know(index)

    def _path(self, number: int) -> Path:
        return self.folder / f"tokens-{number:05}.safetensors"

    def _opened(self, number: int) -> Any:
        path = self._path(number)
        try:
            tokens = safe_open(path, framework="np").get_slice("tokens")  # type: ignore[no-untyped-call]
            if tokens.get_shape() != [self.index.shards[number]]:
                raise ValueError(f"of shape {tokens.get_shape()}")
        except (OSError, SafetensorError, ValueError) as error:
            raise SteppeError(
                "a shard of tokens must be as it was written",
                got=f"{path} ({type(error).__name__}: {error})",
                way_out=f"rm -r {self.folder}, and the text is tokenised again",
            ) from None
        return tokens
