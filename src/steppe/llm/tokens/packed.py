"""Tokens in windows that follow each other; the last ones held out."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm.calibration_windows import CalibrationWindows, check_vocabulary, windows
from steppe.llm.text import longer_or
from steppe.llm.tokens.mixture import Weighted, mixture
from steppe.llm.tokens.sampled import Sampling, of_itself, sampled
from steppe.llm.tokens.store import TokenStore
from steppe.llm.tokens.tokenized import tokenized


class Windows(Protocol):
    """Windows by their numbers."""

    def __len__(self) -> int: ...

    def take(self, numbers: Sequence[int]) -> Tensor:
        """Ids, int64, shape [numbers, window]."""
        ...


@dataclass(frozen=True)
class Stored:
    """Windows of a store: window i is tokens i w to (i + 1) w; the remainder is in none.

    Args:
        store: of the tokens.
        window: tokens in each, w.
        tokens: from the first on, that count; of a stream another run may have read more.
    """

    store: TokenStore
    window: int
    tokens: int

    def __len__(self) -> int:
        return self.tokens // self.window

    def take(self, numbers: Sequence[int]) -> Tensor:
        """Ids, int64, shape [numbers, window]; of each window only its bytes are read."""
        return torch.stack([self.store.read(i * self.window, self.window) for i in numbers])


@dataclass(frozen=True)
class Given:
    """Windows in memory, shape [windows, window]."""

    tokens: Tensor

    def __len__(self) -> int:
        return len(self.tokens)

    def take(self, numbers: Sequence[int]) -> Tensor:
        """Ids, int64, shape [numbers, window]."""
        return self.tokens[torch.tensor(numbers, dtype=torch.int64)]


@dataclass(frozen=True)
class Source:
    """One text of a mixture.

    Args:
        windows: all of them.
        held: how many of them, the last ones, are held out.
        share: of what is drawn.
        name: as the user gave it.
    """

    windows: Windows
    held: int = 0
    share: float = 1.0
    name: str = "tokens"

    @property
    def trained(self) -> int:
        """Windows that are drawn from: the first ones."""
        return len(self.windows) - self.held


@dataclass(frozen=True)
class PackedText:
    """Texts in windows.

    Args:
        sources: of a mixture, or one.
        window: tokens in each window.
        description: plain data for a record.

    Example:
        >>> text = PackedText.of_tokens(torch.arange(12).view(6, 2), held_out=0.34)
        >>> text.sources[0].trained, text.held_out().tolist()
        (4, [[8, 9], [10, 11]])
    """

    sources: tuple[Source, ...]
    window: int
    description: dict[str, Any]

    @classmethod
    def of_tokens(cls, tokens: Tensor, held_out: float = 0.0) -> PackedText:
        """Of windows that are there, int64, shape [windows, window]."""
        drawn = windows(tokens)
        held = _held(len(tokens), held_out, "tensor", tokens.shape[1])
        source = Source(Given(drawn.tokens), held)
        return cls((source,), tokens.shape[1], {"sources": [drawn.description], "held_out": held})

    @property
    def largest_batch(self) -> int:
        """Windows that a batch can have, each of them another one."""
        fits = (math.floor(s.trained / s.share) for s in self.sources)
        return min(sum(s.trained for s in self.sources), *fits)

    def held_out(self, most: int | None = None) -> Tensor:
        """The windows that are never trained on, shape [windows, window]; of each text its last.

        Args:
            most: of so many in all, evenly chosen, where there are more; at least one of a text.
        """
        rows = [
            s.windows.take([s.trained + i for i in _chosen(s.held, most, len(self.sources))])
            for s in self.sources
            if s.held
        ]
        return torch.cat(rows) if rows else torch.empty(0, self.window, dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """How texts become windows.

    Args:
        window: tokens in each.
        tokens: that are asked for in all; a stream is read, and the model writes, until its share
            of them is there. Files are read whole.
        held_out: the share of each text's windows, its last ones, that is never trained on.
        vocabulary: rows of the model's embedding.
        beside: the run's folder, where tokens are kept if the cache cannot be written.
        model: folder or hub id of the model that writes the text ``self``.
        seed: of what it draws.
        device: where it runs.
    """

    window: int
    tokens: int | None = None
    held_out: float = 0.0
    vocabulary: int | None = None
    beside: Path | None = None
    model: str | Path | None = None
    seed: int = 0
    device: str = "cpu"

    def of(self, given: str | Path | Sequence[str | Path], tokenizer: Any = None) -> PackedText:
        """Texts, tokenised and in windows.

        Args:
            given: a text, see `steppe.llm.text.read`; a mixture, see
                `steppe.llm.tokens.mixture.mixture`; a ``.safetensors`` file of token ids; or
                ``self``, see `steppe.llm.tokens.sampled.Sampling`.
            tokenizer: the model's; not needed for ids.

        Raises:
            SteppeError: a text cannot be read, holds no window, or has tokens beyond the
                vocabulary.
        """
        sources, said = [], []
        for part in mixture(given):
            found, own = self._windows(part, tokenizer)
            held = _held(len(found), self.held_out, part.source, self.window)
            sources.append(Source(found, held, part.share, part.source))
            said.append(own | {"windows": len(found), "held_out": held, "share": part.share})
        return PackedText(tuple(sources), self.window, {"window": self.window, "sources": said})

    def _windows(self, part: Weighted, tokenizer: Any) -> tuple[Windows, dict[str, Any]]:
        if of_itself(part.source):
            written = self._written(part)
            return Given(written.tokens), written.description
        if part.source.endswith(".safetensors"):
            drawn = windows(part.source)
            self._check_given(drawn.tokens, part.source)
            return Given(drawn.tokens), drawn.description
        wanted = self._wanted(part)
        made = tokenized(part.source, tokenizer, at_least=wanted, beside=self.beside)
        there = len(made.store)
        if made.streamed:  # the same windows, however far other runs have read it
            assert wanted is not None
            there = min(there, wanted)
        found = Stored(made.store, self.window, there)
        if not len(found):
            raise SteppeError(
                f"a text that is trained on must hold a window of {self.window} tokens",
                got=f"{there} tokens in {part.source}",
                way_out=longer_or(there, self.window),
            )
        if self.vocabulary is not None:
            index = made.store.index
            check_vocabulary(torch.tensor([index.least, index.most]), self.vocabulary)
        return found, made.description | {"tokens": there}

    def _wanted(self, part: Weighted) -> int | None:
        """Tokens of a text, those that are held out included."""
        if self.tokens is None:
            return None
        return math.ceil(part.share * self.tokens / (1 - self.held_out)) + 2 * self.window

    def _written(self, part: Weighted) -> CalibrationWindows:
        assert self.model is not None, "a text that the model writes needs the model"
        wanted = self._wanted(part)
        if wanted is None and Sampling.of(part.source).samples is None:
            raise SteppeError(
                "of text that the model writes one must say how much is asked for",
                got=part.source,
                way_out="--tokens 1M, or self:1::128 for 128 windows",
            )
        return sampled(
            self.model,
            part.source,
            samples=(wanted or 0) // self.window,
            window=self.window,
            seed=self.seed,
            device=self.device,
            beside=self.beside,
        )

    def _check_given(self, tokens: Tensor, name: str) -> None:
        if tokens.shape[1] != self.window:
            raise SteppeError(
                "windows of token ids are trained on as they are",
                got=f"windows of {tokens.shape[1]} tokens in {name}, and a window of {self.window}",
                way_out=f"--window {tokens.shape[1]}",
            )
        if self.vocabulary is not None:
            check_vocabulary(tokens, self.vocabulary, name)


def _chosen(held: int, most: int | None, sources: int) -> list[int]:
    """Which of so many windows stand for them, where all sources together may have ``most``.

    Example:
        >>> _chosen(5, 4, sources=2), _chosen(5, None, sources=2)
        ([0, 2], [0, 1, 2, 3, 4])
    """
    few = held if most is None else min(held, max(most // sources, 1))
    return [i * held // few for i in range(few)]


def _held(count: int, share: float, name: str, window: int) -> int:
    """How many of so many windows are held out: at least one if any are asked for."""
    if not 0 <= share < 1:
        raise SteppeError(
            "the share of windows that is held out lies in [0, 1)", got=share, way_out="0.05"
        )
    held = max(round(share * count), 1) if share else 0
    if held >= count:
        raise SteppeError(
            "a text must hold windows to train on beside those that are held out",
            got=f"{count} windows of {window} tokens in {name}, {held} of them held out",
            way_out="a longer text, a shorter --window, or nothing held out",
        )
    return held
