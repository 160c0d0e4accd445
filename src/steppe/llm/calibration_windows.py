"""Windows of text that a language model is calibrated on."""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.llm.text import Corpus, read, tokenize, too_short
from steppe.llm.text_files import LARGE, Places

_LETTERS = 8  # bytes that are read for a token, at first
_SEAM = 16  # tokens beside a place that are not used
_SPECIAL = 8  # tokens that a tokenizer may add to a text
LOOK = 20_000
"""Documents that are looked at before a corpus counts as one of short documents."""


@dataclass(frozen=True)
class CalibrationWindows:
    """Token windows and where they come from.

    Args:
        tokens: ids, int64, shape [samples, window].
        description: plain data for a record: ``source``, ``sha256`` of the tokens, ``samples``,
            ``window``, ``seed``, ``text_tokens`` (how many tokens were there to draw from, or were
            read) and ``drawn_from`` (``text``, ``places`` of one, ``documents`` or ``tokens``).

    Example:
        >>> windows(torch.arange(12).view(3, 4)).description["samples"]
        3
    """

    tokens: Tensor
    description: dict[str, Any]


def windows(
    source: str | Path | Tensor,
    tokenizer: Any = None,
    *,
    samples: int = 128,
    window: int = 2048,
    seed: int = 0,
    whole: bool = False,
) -> CalibrationWindows:
    """Random windows of a text, drawn as SparseGPT's and Wanda's loaders draw them.

    One long text of n tokens: each window starts at i = randint(0, n - window - 1), drawn from
    ``random.Random(seed)``. Documents (C4, ``.jsonl``, ``.parquet``): in an order drawn from the
    seed, each one longer than the window gives one window, at such a start; if they are too few,
    they are used again. If there is none at all, the documents are joined to one text.

    A local text of more than 2 MiB is not tokenised whole for a few windows: each starts at a place
    drawn from the seed, some tokens after it, and only what lies there is read.

    Args:
        source: a file, a folder or a dataset, see `steppe.llm.text.read`; or tokens that are used
            as they are: int64, shape [samples, window], or a ``.safetensors`` file that holds
            them under the name ``tokens``.
        tokenizer: the model's; not needed for tokens.
        samples: how many windows.
        window: tokens in each.
        seed: of the starts and of the order of documents.
        whole: tokenise a large text whole all the same, to draw the windows that were drawn before
            there were places.

    Returns:
        The windows and their description.

    Raises:
        SteppeError: the source cannot be read, the text is too short for the window, or the
            tensor is none of tokens.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "a.txt"
        >>> _ = path.write_text("to be or not to be")
        >>> def letters(text, **_): return {"input_ids": [ord(c) for c in text]}
        >>> windows(path, letters, samples=2, window=4).tokens.shape
        torch.Size([2, 4])

    Source: Frantar and Alistarh, SparseGPT, 2023, and Sun et al., Wanda, 2024: their datautils.
    """
    if isinstance(source, Tensor):
        return _given(source, "tensor")
    if str(source).endswith(".safetensors"):
        return _given(_stored(Path(source)), str(source))
    if samples < 1 or window < 2:
        raise SteppeError(
            "calibration needs at least one sample, of at least two tokens",
            got=f"--samples {samples} --window {window}",
            way_out="--samples 128 --window 2048",
        )
    corpus = read(source, "train")
    draw = random.Random(seed)
    chosen, seen, drawn_from = None, 0, "documents"
    if not corpus.long:
        chosen, seen = _from_documents(corpus, tokenizer, samples, window, seed, draw)
    if chosen is None:
        places, text = corpus.places, ""
        if places is None or whole or places.size <= LARGE:
            text = corpus.joined() if corpus.long else corpus.separator.join(_head(corpus))
            # of the hub's texts the windows are those of the papers, whatever their length
            large = not corpus.long and len(text) > LARGE and not whole
            places = Places(text) if large else None
        if places is not None:
            drawn_from = "places"
            chosen, seen = _from_places(places, corpus.source, tokenizer, samples, window, draw)
        else:
            tokens = tokenize(tokenizer, text)
            seen, drawn_from = len(tokens), "text"
            if seen < window + 1:
                raise too_short(corpus.source, seen, window, 1)
            chosen = [_cut(tokens, window, draw) for _ in range(samples)]
    return _describe(
        torch.stack(chosen),
        source=str(source),
        seed=seed,
        text_tokens=seen,
        drawn_from=drawn_from,
    )


def check_vocabulary(tokens: Tensor, vocab_size: int, file: str = "") -> None:
    """Each token must be a row of the model's embedding.

    Args:
        tokens: ids, any shape.
        vocab_size: rows of the embedding.
        file: that has the ids; empty where the model's tokenizer made them.

    Raises:
        SteppeError: an id is negative or too large: they are not of the model's tokenizer.

    Example:
        >>> check_vocabulary(torch.tensor([0, 9]), vocab_size=10)
    """
    least, most = int(tokens.min()), int(tokens.max())
    if least < 0 or most >= vocab_size:
        raise SteppeError(
            f"each token must lie in the model's vocabulary, 0 to {vocab_size - 1}",
            got=f"token {most if most >= vocab_size else least}" + f" in {file}" * bool(file),
            consequence="they were made for another model"
            if file
            else "the tokenizer does not fit the model",
            way_out="make the ids anew, with the tokenizer that was saved with the model"
            if file
            else "use the tokenizer that was saved with the model",
        )


def sha256(tokens: Tensor) -> str:
    """Of the ids as little-endian int64, row by row; the same on every machine."""
    data = tokens.detach().cpu().contiguous().numpy().astype("<i8").tobytes()
    return hashlib.sha256(data).hexdigest()


def _head(corpus: Corpus) -> list[str]:
    return list(islice(corpus.documents, LOOK))


def _cut(tokens: Tensor, window: int, draw: random.Random) -> Tensor:
    start = draw.randint(0, len(tokens) - window - 1)
    return tokens[start : start + window]


def _from_places(
    places: Places,
    source: str,
    tokenizer: Any,
    samples: int,
    window: int,
    draw: random.Random,
) -> tuple[list[Tensor], int]:
    """Windows that start at places of a text, and how many tokens were read."""
    length, seen, chosen = _LETTERS * (window + 2 * _SEAM), 0, list[Tensor]()
    while len(chosen) < samples:
        start = draw.randrange(places.size)
        while True:
            tokens = tokenize(tokenizer, places.read(start, length), whole=False)
            seen += len(tokens)
            # at both ends a word may be cut, whose tokens are not those of the text
            if len(tokens) >= window + 2 * _SEAM:
                chosen.append(tokens[_SEAM : _SEAM + window])
                break
            if start == 0 and length >= places.size:
                raise too_short(source, len(tokens), window, 2 * _SEAM)
            if start + length >= places.size:
                start = max(places.size - 2 * length, 0)
            length *= 2
    return chosen, seen


def _from_documents(
    corpus: Corpus, tokenizer: Any, samples: int, window: int, seed: int, draw: random.Random
) -> tuple[list[Tensor] | None, int]:
    """Windows of documents that are long enough, and how many tokens were read; or None."""
    drawn: list[Tensor] = []
    seen = 0
    for number, text in enumerate(corpus.shuffled(seed)):
        if len(drawn) == samples or (number >= LOOK and not drawn):
            break
        if len(text.encode()) + _SPECIAL <= window:
            continue  # a token is a byte at least
        tokens = tokenize(tokenizer, text)
        seen += len(tokens)
        if len(tokens) > window:
            drawn.append(tokens)
    if not drawn:
        return None, 0
    return [_cut(drawn[i % len(drawn)], window, draw) for i in range(samples)], seen


def _stored(path: Path) -> Tensor:
    try:
        with safe_open(path, framework="pt") as file:
            names = list(file.keys())
            if "tokens" in names:
                tokens: Tensor = file.get_tensor("tokens")
                return tokens
    except (OSError, SafetensorError) as error:
        raise SteppeError(
            "a file of tokens must be readable safetensors",
            got=f"{path} ({error})",
            way_out="check the path, or name a text",
        ) from None
    raise SteppeError(
        "a file of tokens must hold them under the name tokens",
        got=f"{', '.join(names) or 'nothing'} in {path}",
        way_out='safetensors.torch.save_file({"tokens": tokens}, path)',
    )


def _given(tokens: Tensor, source: str) -> CalibrationWindows:
    if tokens.dtype != torch.int64 or tokens.ndim != 2 or tokens.numel() == 0:
        raise SteppeError(
            "tokens must be int64 of shape [samples, window]",
            got=f"{tokens.dtype} of shape {list(tokens.shape)}",
            way_out="tokens.long(), and one window a row",
        )
    if tokens.shape[1] < 2:
        raise SteppeError("a window needs two tokens at least", got=f"shape {list(tokens.shape)}")
    return _describe(
        tokens, source=source, seed=None, text_tokens=tokens.numel(), drawn_from="tokens"
    )


def _describe(tokens: Tensor, **known: Any) -> CalibrationWindows:
    samples, window = tokens.shape
    shape = {"sha256": sha256(tokens), "samples": samples, "window": window}
    return CalibrationWindows(tokens, {"source": known.pop("source"), **shape, **known})
