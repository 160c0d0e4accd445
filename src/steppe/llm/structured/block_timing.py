"""Few blocks of a language model timed at each width; see `steppe.llm.structured.latency`."""

from __future__ import annotations

import copy
import itertools
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.processor import last_level_cache
from steppe.llm.generation_worker import greedy
from steppe.llm.skeleton import quiet
from steppe.llm.structured.latency import WHICH, GenerationTable
from steppe.llm.structured.shape import Shape, skeleton_of
from steppe.removal.forward_timing import conditions, settle

LEAST, WIDTHS = 8, 4
"""A width is measured from an eighth of the whole one on, and at every quarter."""
STEPS = 24
"""Tokens that are timed one by one; of longer texts those in the middle."""
WORDS = 64
"""In the vocabulary of the models whose blocks are timed."""
Timer = Callable[[Any, int, int], tuple[float, float]]
"""Milliseconds that a model takes for a prompt of so many tokens and for each of so many more."""
Build = Callable[[Any, Shape, torch.dtype, str], Any]
"""A model of a config and a shape, in a dtype, on a device."""


def axis(whole: int, multiple: int = 1) -> list[int]:
    """The widths that are measured.

    Example:
        >>> axis(672), axis(8), axis(672, multiple=32), axis(3)
        ([84, 168, 336, 504, 672], [1, 2, 4, 6, 8], [96, 160, 320, 512, 672], [1, 2, 3])
    """
    shares = [whole / LEAST, *(whole * n / WIDTHS for n in range(1, WIDTHS))]
    rounded = {max(round(share / multiple) * multiple, min(multiple, whole)) for share in shares}
    return sorted({*(w for w in rounded if w < whole), whole})


def built(config: Any, shape: Shape, dtype: torch.dtype, device: str) -> Any:
    """A model of a shape with random weights.

    Args:
        config: of the whole model.
        shape: of the new one.
        dtype: of its weights.
        device: that they lie on.
    """
    with quiet():
        model = skeleton_of(config, shape, dtype)
    draw = torch.Generator(device).manual_seed(0)
    made: dict[int, tuple[nn.Parameter, nn.Parameter]] = {}
    for module in model.modules():
        norm = "Norm" in type(module).__name__
        for name, p in module._parameters.items():
            if p is None:
                continue
            if id(p) not in made:  # what is tied stays so; the old one is held, so its id is its
                new = torch.empty(p.shape, dtype=dtype, device=device)
                new = (
                    new.fill_(1.0)
                    if norm and p.ndim == 1
                    else new.normal_(0.0, 0.02, generator=draw)
                )
                made[id(p)] = p, nn.Parameter(new, requires_grad=False)
            module._parameters[name] = made[id(p)][1]
    return model.to(device).eval()


def of_few_words(config: Any) -> Any:
    """A config with a vocabulary of 64 words."""
    small = copy.deepcopy(config)
    for part in (small, small.get_text_config()):
        part.vocab_size = min(WORDS, part.vocab_size) if hasattr(part, "vocab_size") else WORDS
        part.pad_token_id = part.bos_token_id = part.eos_token_id = 0
    return small


class _Stopwatch:
    """Tells when generate has each token: a streamer, as transformers calls it."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, tokens: torch.Tensor) -> None:
        self.moments.append(time.perf_counter())

    def end(self) -> None:
        pass


@torch.inference_mode()
def written(model: Any, prompt: int, tokens: int) -> tuple[float, float]:
    """Milliseconds of the prompt until the first token, and of each further one; the median.

    Args:
        model: that writes, after a prompt of random tokens.
        prompt: its tokens.
        tokens: that are written.
    """
    words = model.get_input_embeddings().weight.shape[0]
    device = next(model.parameters()).device
    draw = torch.Generator().manual_seed(0)
    text = torch.randint(words, (1, prompt), generator=draw).to(device)
    watch, begun = _Stopwatch(), time.perf_counter()
    greedy(model, text, tokens, watch)
    moments = watch.moments[1:]  # the first is the prompt's
    each = [1000 * (b - a) for a, b in itertools.pairwise(moments)]
    return 1000 * (moments[0] - begun), statistics.median(each) if each else 0.0


def timed(model: Any, prompt: int, tokens: int, repeats: int = 3) -> tuple[float, float]:
    """As `written`, the median of several texts, after one that is not counted.

    Of a long text only the tokens in the middle are timed, with as much in the cache as then is.
    """
    steps = min(tokens - 1, STEPS)
    before = (tokens - 1 - steps) // 2
    settle()
    written(model, prompt, 2)
    first, each = [], []
    for _ in range(repeats):
        start, token = written(model, prompt, 1 + (0 if before else steps))
        first.append(start)
        each.append(written(model, prompt + before, 1 + steps)[1] if before else token)
    return statistics.median(first), statistics.median(each)


def measure(
    config: Any,
    *,
    prompt: int = 256,
    tokens: int = 64,
    path: Path | str | None = None,
    dtype: torch.dtype | None = None,
    device: str = "cpu",
    multiple: int = 1,
    passes: int = 3,
    timer: Timer = timed,
    build: Build = built,
    say: Callable[[str], None] = lambda text: None,
) -> GenerationTable:
    """Measure a language model's blocks over their widths, and the rest.

    Args:
        config: of transformers; no weights are read.
        prompt: tokens that are read first.
        tokens: that are written, of one text at a time.
        path: a file that is written while it is measured; what is there is not measured again.
        dtype: that it computes in; as its weights are stored if not given.
        device: where to measure.
        multiple: of neurons that are measured.
        passes: over everything; the median of the passes counts.
        timer: what measures.
        build: what makes the models that are timed.
        say: is told of each point.

    Raises:
        SteppeError: the file was measured under other conditions, or the text is too long.
    """
    shape = Shape.of(config)
    _check_text(config, prompt, tokens, multiple, passes)
    stored = getattr(config, "dtype", None)
    own = dtype or (stored if isinstance(stored, torch.dtype) else torch.float32)
    shape = replace(shape, width=own.itemsize)
    multiples = {"neurons": multiple, "heads": 1}
    axes = {k: axis(getattr(shape, k), m) for k, m in multiples.items() if k in shape.cuts}
    here = conditions(nn.Linear(1, 1, device=device, dtype=own))
    here |= {"cache": last_level_cache(), "transformers": metadata.version("transformers")}
    here |= {"family": config.model_type}
    table = GenerationTable(here, prompt, tokens, shape, axes, path=Path(path) if path else None)
    if table.path is not None and table.path.exists():
        earlier = GenerationTable.read(table.path)
        earlier.check(table)
        table = earlier
    few = of_few_words(config)
    try:
        for number in range(1, passes + 1):
            for name, narrow, whole in table.wanted():
                point = table.points.setdefault(name, {which: [] for which in WHICH})
                if len(point["token"]) >= number:
                    continue
                model = build(config if whole else few, narrow, own, device)
                taken = timer(model, prompt, tokens)
                for which, ms in zip(WHICH, taken, strict=True):
                    point[which].append(ms)
                table.write()
                said = f"prompt {taken[0]:.4g} ms, token {taken[1]:.4g} ms"
                say(f"pass {number} of {passes}: {name}: {said}")
    finally:  # what was measured is kept whatever happens
        table.write()
    return table


def _check_text(config: Any, prompt: int, tokens: int, multiple: int, passes: int) -> None:
    if prompt < 1 or tokens < 2 or multiple < 1 or passes < 1:
        raise SteppeError(
            "a text has a prompt and two tokens or more; it is measured once or more",
            got=f"prompt {prompt}, tokens {tokens}, round_to {multiple}, passes {passes}",
            way_out="--prompt 256 --tokens 64",
        )
    most = getattr(config.get_text_config(), "max_position_embeddings", None)
    if isinstance(most, int) and prompt + tokens > most:
        raise SteppeError(
            "a text must not be longer than the model's positions",
            got=f"a prompt of {prompt} and {tokens} tokens, for {most} positions",
            way_out="a shorter --prompt, or fewer --tokens",
        )
