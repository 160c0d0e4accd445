"""Perplexity: exp of the mean negative log-likelihood of each next token."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.split import is_split
from steppe.engine.progress import advanced
from steppe.llm.calibration_windows import check_vocabulary, sha256
from steppe.llm.text import read, tokenize, too_short

LOGITS_AT_ONCE = {"cpu": 1 << 20, "gpu": 1 << 26}
"""Logits that are held in float32 at once: what fits a core's cache, what fills a GPU."""


@torch.no_grad()
def token_loss(
    hidden: Tensor, head: Callable[[Tensor], Tensor], tokens: Tensor, *, first: int = 1
) -> tuple[float, int]:
    """Summed negative log-likelihood of the tokens under the model.

    nll = sum over b, i >= first of logsumexp(z[b, i-1]) - z[b, i-1, tokens[b, i]], z = head(hidden)

    in float32, summed in float64. The rows of z are made and used a few at a time.

    Args:
        hidden: what the last block gives, shape [b, t, h]; or logits, with an identity as head.
        head: final norm and output layer, [rows, h] -> [rows, vocabulary], row by row.
        tokens: ids, shape [b, t].
        first: the first position that counts as a target; 1 or more.

    Returns:
        The sum, in nats, and the number of targets, b (t - first).

    Example:
        >>> loss, count = token_loss(torch.zeros(1, 3, 5), lambda z: z, torch.tensor([[0, 1, 2]]))
        >>> round(math.exp(loss / count), 4), count
        (5.0, 2)
    """
    rows = hidden[:, first - 1 : -1].flatten(0, 1)
    targets = tokens[:, first:].flatten().to(rows.device)
    at_once = LOGITS_AT_ONCE["cpu" if rows.device.type == "cpu" else "gpu"]
    total, start, size = 0.0, 0, 1  # one row tells how large the vocabulary is
    while start < len(rows):
        logits = head(rows[start : start + size]).float()
        chosen = logits.gather(1, targets[start : start + size, None]).squeeze(1)
        total += float((logits.logsumexp(1) - chosen).double().sum())
        start += size
        size = max(at_once // logits.shape[1], 1)
    return total, len(targets)


def pieces(tokens: Tensor, window: int, stride: int | None = None) -> Iterator[tuple[Tensor, int]]:
    """A text's tokens in windows, each with the first position that counts as a target.

    Without a stride windows do not overlap and a remainder is dropped: each predicts its last
    window - 1 tokens. With a stride below the window they overlap, each predicts only what none
    before it did, and the last one is as long as what is left: each token but the first counts
    once.

    Args:
        tokens: ids, shape [tokens].
        window: tokens the model sees at once.
        stride: tokens from one window's start to the next.

    Returns:
        Pairs (ids of shape [at most window], first target).

    Example:
        >>> [(p.tolist(), first) for p, first in pieces(torch.arange(5), 3, stride=2)]
        [([0, 1, 2], 1), ([2, 3, 4], 1)]
        >>> [p.tolist() for p, _ in pieces(torch.arange(5), 3)]
        [[0, 1, 2]]
    """
    if stride is None or stride == window:
        for row in tokens[: len(tokens) // window * window].view(-1, window):
            yield row, 1
        return
    done = 1  # the first token has nothing before it
    for start in range(0, len(tokens), stride):
        piece = tokens[start : start + window]
        if start + len(piece) > done:
            yield piece, done - start
        done = start + len(piece)
        if done >= len(tokens):
            return


def perplexity(
    model: nn.Module,
    source: str | Path | Tensor,
    *,
    window: int,
    tokenizer: Any = None,
    stride: int | None = None,
    batch: int = 8,
    device: torch.device | str | None = None,
    dtype: torch.dtype | None = None,
) -> dict[str, Any]:
    """Perplexity of a causal language model on a text.

    exp(sum of nll / number of predicted tokens). Without a stride as SparseGPT and Wanda measure:
    the text in windows that do not overlap, the remainder dropped, window - 1 predictions each.
    With one as Hugging Face describes it: windows overlap and only new tokens count.

    Args:
        model: tokens [b, t] -> logits [b, t, vocabulary], as they are or as ``.logits``.
        source: a text (see `steppe.llm.text.read`), or token ids: [tokens], or [windows, window]
            to be measured row by row.
        window: tokens the model sees at once.
        tokenizer: the model's; not needed for ids.
        stride: tokens from one window's start to the next; the window, if none is given.
        batch: windows in one forward pass.
        device: where to measure; where the model is, if none is given. It is moved back after.
        dtype: the precision to measure in; the model's own, if none is given. In another one a
            copy is measured.

    Returns:
        ``perplexity``, ``loss`` (nats a token), ``tokens`` (predictions), ``windows``,
        ``window``, ``stride``, ``dtype``, ``seconds``, ``source`` and ``sha256`` of the ids
        that were measured.

    Raises:
        SteppeError: text, window and stride do not fit each other, or ids not the model.

    Example:
        >>> model = nn.Embedding(4, 4)
        >>> _ = nn.init.zeros_(model.weight)
        >>> round(perplexity(model, torch.tensor([0, 1, 2, 3]), window=4)["perplexity"], 6)
        4.0
    """
    _check(window, stride, batch)
    check_positions(model, window)
    text, name, limit = _text(source, tokenizer, window)
    check_vocabulary(text, _vocabulary(model))
    if stride in (None, window):
        text = text[: min(limit or len(text), len(text) // window) * window]
    cut = list(pieces(text, window, stride))[:limit]
    begun = time.perf_counter()
    total, count, number = 0.0, 0, 0
    # what FSDP2 gathers in inference mode could not be trained on afterwards
    calm = torch.no_grad if any(map(is_split, model.parameters())) else torch.inference_mode
    with _ready(model, device, dtype) as (ready, place, precision), calm():
        for rows, first in _batches(cut, batch):
            advanced(f"perplexity on {name}", number, len(cut))
            loss, targets = token_loss(_logits(ready, rows.to(place)), _same, rows, first=first)
            total, count, number = total + loss, count + targets, number + len(rows)
    advanced(f"perplexity on {name}", number, number)
    loss = total / count
    return {
        "perplexity": math.exp(loss) if loss < 700 else math.inf,
        "loss": loss,
        "tokens": count,
        "windows": number,
        "window": window,
        "stride": stride or window,
        "dtype": precision,
        "seconds": time.perf_counter() - begun,
        "source": name,
        "sha256": sha256(text),
    }


def _same(logits: Tensor) -> Tensor:
    return logits


def positions_of(model: nn.Module) -> int | None:
    """The longest window a model of transformers was made for, where its config says."""
    config: Any = getattr(model, "config", None)
    if hasattr(config, "get_text_config"):
        config = config.get_text_config()
    most = getattr(config, "max_position_embeddings", None)
    if not isinstance(most, int) or most < 1:  # XLNet says -1: as long as one likes
        return None
    for module in model.modules():
        inside = getattr(module, "position_embeddings", None)
        if isinstance(inside, nn.Embedding) and inside.padding_idx is not None:
            return most - inside.padding_idx - 1  # RoBERTa counts its positions from there
    return most


def check_positions(model: nn.Module, window: int) -> None:
    """A window must not be longer than what the model was made for.

    Args:
        model: with a ``config`` of transformers; any other passes.
        window: tokens the model sees at once.

    Raises:
        SteppeError: it is longer than ``max_position_embeddings``.
    """
    most = positions_of(model)
    if most is not None and window > most:
        raise SteppeError(
            "a window must not be longer than the model's positions",
            got=f"--window {window} for a model of {most}",
            way_out=f"--window {most}",
        )


def _check(window: int, stride: int | None, batch: int) -> None:
    if window < 2:
        raise SteppeError("a window needs two tokens at least", got=window, way_out="--window 2048")
    if stride is not None and not 1 <= stride <= window:
        raise SteppeError(
            "the stride must lie between 1 and the window",
            got=f"--stride {stride} --window {window}",
            consequence="a larger one would leave tokens out",
            way_out="leave it out for windows that do not overlap",
        )
    if batch < 1:
        raise SteppeError("a batch holds one window at least", got=batch, way_out="--batch 1")


def _text(
    source: str | Path | Tensor, tokenizer: Any, window: int
) -> tuple[Tensor, str, int | None]:
    """Ids in a row, the source's name, and how many windows of it are measured at most."""
    name, limit = "tensor", None
    if isinstance(source, Tensor):
        tokens = source
        if tokens.dtype != torch.int64 or tokens.ndim not in (1, 2):
            raise SteppeError(
                "tokens must be int64 of shape [tokens] or [windows, window]",
                got=f"{tokens.dtype} of shape {list(tokens.shape)}",
                way_out="tokens.long()",
            )
        if tokens.ndim == 2 and tokens.shape[0] > 1 and tokens.shape[1] != window:
            raise SteppeError(
                "tokens of several windows must have the window's length",
                got=f"shape {list(tokens.shape)} with window {window}",
                way_out=f"window={tokens.shape[1]}, or tokens.flatten() for one text",
            )
        tokens = tokens.flatten()
    else:
        corpus = read(source, "test")
        name, limit = corpus.source, corpus.windows
        tokens = tokenize(tokenizer, corpus.joined())
    if len(tokens) < window:
        raise too_short(name, len(tokens), window, 0)
    return tokens, name, limit


def _batches(cut: list[tuple[Tensor, int]], size: int) -> Iterator[tuple[Tensor, int]]:
    """Windows of one length and one first target, stacked."""
    together: list[Tensor] = []
    first = 1
    for piece, start in cut:
        if together and (len(together) == size or start != first or len(piece) != len(together[0])):
            yield torch.stack(together), first
            together = []
        together.append(piece)
        first = start
    if together:
        yield torch.stack(together), first


def _logits(model: nn.Module, rows: Tensor) -> Tensor:
    out = model(rows, use_cache=False) if hasattr(model, "config") else model(rows)
    logits = out if isinstance(out, Tensor) else out.logits
    assert isinstance(logits, Tensor), "a language model gives logits"
    return logits


def _vocabulary(model: nn.Module) -> int:
    """Rows of the input embedding."""
    embedding = getattr(model, "get_input_embeddings", lambda: None)()
    weight = getattr(embedding, "weight", None)
    if weight is None:
        weight = next(m.weight for m in model.modules() if isinstance(m, nn.Embedding))
    return int(weight.shape[0])


class _ready:
    """The model in eval mode, on a device, in a precision; as it was when the block ends."""

    def __init__(
        self, model: nn.Module, device: torch.device | str | None, dtype: torch.dtype | None
    ) -> None:
        self.model, self.modes = model, {m: m.training for m in model.modules()}
        first = next(model.parameters())
        self.home, self.own = first.device, first.dtype
        self.device = torch.device(device) if device is not None else self.home
        self.dtype = dtype or self.own

    def __enter__(self) -> tuple[nn.Module, torch.device, str]:
        model = self.model
        if self.dtype != self.own:
            model = copy.deepcopy(model).to(self.dtype)
        if self.device != self.home:
            model = model.to(self.device)
        return model.eval(), self.device, str(self.dtype).removeprefix("torch.")

    def __exit__(self, *_: object) -> None:
        if self.device != self.home:
            self.model.to(self.home)
        for module, mode in self.modes.items():
            module.training = mode
