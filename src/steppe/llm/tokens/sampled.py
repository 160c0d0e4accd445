"""Windows of text that the dense model itself writes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.serialization import load_tensors, read_json, sweep, write_tensors, write_text
from steppe.engine.host_memory import reused
from steppe.engine.progress import advanced
from steppe.llm.architecture import answers_in_tokens
from steppe.llm.calibration_windows import CalibrationWindows, sha256
from steppe.llm.checkpoint import folder_of
from steppe.llm.kept import made, one_at_a_time
from steppe.llm.load import load
from steppe.llm.perplexity import check_positions
from steppe.llm.tokens.digest import of_files
from steppe.llm.tokens.encoding import ids_of

SELF = "self"
TOGETHER = 16
"""Windows that are written at once; what a kill costs at most."""
_DECIDES = ("*.safetensors", "*.json", "*.model", "*.txt")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How a model writes.

    Each token is drawn from softmax(z / temperature) over the top_k largest logits z. What comes
    after an end-of-sequence token is the next text of the same window.

    Args:
        temperature: above 0; at 1 the model's own distribution.
        top_k: how many tokens can be drawn; 0 for all.
        samples: windows; None for as many as are asked for.
        prompt: each window begins with it; if there is none, with the token that begins a text.

    Example:
        >>> Sampling.of("self:0.8:50")
        Sampling(temperature=0.8, top_k=50, samples=None, prompt='')
    """

    temperature: float = 1.0
    top_k: int = 0
    samples: int | None = None
    prompt: str = ""

    @classmethod
    def of(cls, source: str) -> Sampling:
        """From ``self[:temperature[:top_k[:samples[:prompt]]]]``.

        Raises:
            SteppeError: it is not of that form.
        """
        _, warm, most, count, prompt = [*source.split(":", 4), "", "", "", ""][:5]
        try:
            made = cls(
                temperature=float(warm or 1.0),
                top_k=int(most or 0),
                samples=int(count) if count else None,
                prompt=prompt,
            )
            if not (0 < made.temperature < float("inf") and made.top_k >= 0):
                raise ValueError
            if made.samples is not None and made.samples < 1:
                raise ValueError
        except ValueError:
            raise SteppeError(
                "windows of the model itself are self[:temperature[:top_k[:samples[:prompt]]]], a "
                "temperature above 0 and whole numbers",
                got=source,
                way_out="self, or self:0.8:50",
            ) from None
        return made


def of_itself(source: object) -> bool:
    """Whether a source is the model itself; a file of that name is ``./self``."""
    return isinstance(source, str) and source.split(":")[0] == SELF


def sampled(
    model: str | Path,
    source: str,
    *,
    samples: int,
    window: int,
    seed: int = 0,
    device: str = "cpu",
    beside: Path | None = None,
) -> CalibrationWindows:
    """Windows that a model writes; written once, then used again.

    They are kept by what decides them: the model's files, the prompt, temperature, top_k, seed,
    their number and length. A kill costs the batch that was being written.

    Args:
        model: a folder, or a hub id; all of it is loaded, if anything is to be written.
        source: ``self[:temperature[:top_k[:samples[:prompt]]]]``.
        samples: windows, where the source does not say.
        window: tokens in each, those of the prompt included.
        seed: of what is drawn.
        device: where the model runs.
        beside: the run's folder, where windows are kept if the cache cannot be written.

    Returns:
        The windows; their description names the file, prompt, temperature, top_k, seed and model.

    Raises:
        SteppeError: the model predicts no next token, has no token to begin with, or not as many
            positions.
    """
    how = Sampling.of(source)
    count = samples if how.samples is None else how.samples
    folder = folder_of(str(model))
    files = sorted({path for pattern in _DECIDES for path in folder.glob(pattern)})
    decided = {
        "model": of_files(files, str(folder)),
        **asdict(how) | {"samples": count},
        "window": window,
        "seed": seed,
        "together": TOGETHER,
    }
    name = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:32]
    home = made("sampled", name, beside)
    with one_at_a_time(home):
        sweep(home)
        path = home / "windows.safetensors"
        if not path.exists():
            _write(home, folder, how, decided, device)
        tokens = load_tensors(path)["tokens"]
        said = read_json(path.with_suffix(".json"))
    shape = {"sha256": sha256(tokens), "samples": len(tokens), "window": window}
    described = {"source": source, **shape, "text_tokens": tokens.numel(), "drawn_from": "model"}
    return CalibrationWindows(tokens, described | said)


def _write(home: Path, folder: Path, how: Sampling, decided: dict[str, Any], device: str) -> None:
    model, tokenizer = load(str(folder), device=device)
    if not answers_in_tokens(model):
        raise SteppeError(
            "windows are written by a model that predicts each next token",
            got=f"{type(model).__name__} in {folder}",
            way_out="name a text file",
        )
    check_positions(model, decided["window"])
    start = _start(tokenizer, how, decided["window"], folder)
    count, rows = decided["samples"], list[Tensor]()
    title = f"windows written by {folder}"
    for number, first in enumerate(range(0, count, TOGETHER)):
        advanced(title, first, count)
        path = home / f"batch-{number:05}.safetensors"
        if not path.exists():
            size = min(TOGETHER, count - first)
            drawn = _Writing(model, how, decided["seed"] * 1_000_003 + number)
            with reused():
                write_tensors(path, {"tokens": drawn.windows(start, size, decided["window"])}, {})
        rows.append(load_tensors(path)["tokens"])
    advanced(title, count, count)
    said = {
        "prompt": how.prompt or tokenizer.decode(start),
        "prompt_tokens": start,
        **{key: decided[key] for key in ("temperature", "top_k", "seed", "model")},
    }
    write_text(home / "windows.json", json.dumps(said, indent=2) + "\n")
    write_tensors(home / "windows.safetensors", {"tokens": torch.cat(rows)}, {})
    for path in home.glob("batch-*.safetensors"):
        path.unlink()


def _start(tokenizer: Any, how: Sampling, window: int, folder: Path) -> list[int]:
    begins = tokenizer.bos_token_id
    if begins is None:
        begins = tokenizer.eos_token_id  # as GPT-2, whose texts begin where another one ended
    ids = ids_of(tokenizer, how.prompt) if how.prompt else [begins]
    if ids[0] is None:
        raise SteppeError(
            "a model that writes needs a token to begin with",
            got=f"a tokenizer in {folder} without one that begins or ends a text",
            way_out="give a prompt, self::::The",
        )
    if len(ids) >= window:
        raise SteppeError(
            "the prompt must be shorter than the window",
            got=f"{len(ids)} tokens, and a window of {window}",
            way_out=f"--window {len(ids) + 1} or more, or a shorter prompt",
        )
    return list(ids)


class _Writing:
    """A batch of windows, token by token.

    Args:
        model: of transformers.
        how: it writes.
        seed: of what is drawn; on the processor, wherever the model is.
    """

    def __init__(self, model: Any, how: Sampling, seed: int) -> None:
        self._model, self._how = model, how
        self._draw = torch.Generator().manual_seed(seed % 2**63)

    def windows(self, start: list[int], size: int, window: int) -> Tensor:
        """Ids, int64, shape [size, window]; the first ones are those of the start."""
        given = torch.tensor([start] * size)
        steps = self._steps(given.to(self._model.device), window - len(start))
        return torch.cat([given, *steps], 1)

    def _steps(self, ids: Tensor, steps: int) -> Iterator[Tensor]:
        cache = None
        for _ in range(steps):
            with torch.inference_mode():
                out = self._model(input_ids=ids, past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            new = self._drawn(out.logits[:, -1].float().cpu())
            ids = new.to(ids.device)
            yield new

    def _drawn(self, logits: Tensor) -> Tensor:
        logits = logits / self._how.temperature
        if 0 < self._how.top_k < logits.shape[1]:
            least = logits.topk(self._how.top_k).values[:, -1:]
            logits = logits.masked_fill(logits < least, float("-inf"))
        return torch.multinomial(logits.softmax(-1), 1, generator=self._draw)
