"""One model's speed in a process of its own: ``python -m steppe.llm.generation_worker JSON``."""

from __future__ import annotations

import gc
import json
import sys
import time
from typing import Any

import torch

from steppe.core.errors import SteppeError
from steppe.engine.host_memory import resident
from steppe.llm.checkpoint import folder_of
from steppe.llm.generation_speed import REFUSED
from steppe.llm.load import DTYPES
from steppe.llm.load_sparse import load
from steppe.llm.skeleton import quiet, read_config, skeleton
from steppe.sparse import formats_of


def forget_peak() -> bool:
    """Let the peak begin anew, at what is resident now; whether the system can."""
    try:
        with open("/proc/self/clear_refs", "w", encoding="ascii") as references:
            references.write("5")
    except OSError:
        return False
    # some systems take the word and do nothing; a few pages come between the two readings
    most = peak()
    return most is not None and most <= resident() + 2**22


def peak() -> int | None:
    """The most bytes that were resident since `forget_peak`; None where the system does not tell.

    Example:
        >>> most = peak()
        >>> most is None or most > 0
        True
    """
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            own = [line for line in status if line.startswith("VmHWM")]
    except OSError:
        return None
    return 1024 * int(own[0].split()[1]) if own else None


def warmed(name: str, dtype: str) -> None:
    """Have in memory what any model of this kind needs, dense or sparse, before it is loaded.

    That is transformers' code for it, and what torch allocates for its first product.
    """
    config = read_config(folder_of(name))
    with quiet():
        skeleton(config, DTYPES[dtype], experts=None)
    square = torch.ones(256, 256, dtype=DTYPES[dtype])
    torch.nn.functional.linear(square[:1], square)
    gc.collect()


def greedy(
    model: Any, prompt: torch.Tensor, tokens: int, streamer: Any = None
) -> tuple[float, list[list[int]]]:
    """Seconds that so many new tokens take, and which they are.

    Args:
        model: of transformers.
        prompt: ``[batch, tokens]`` ids.
        tokens: that are written.
        streamer: of transformers, is told of each token.
    """
    begun = time.perf_counter()
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        streamer=streamer,
    )
    return time.perf_counter() - begun, answer[:, prompt.shape[1] :].tolist()


@torch.inference_mode()
def measured(wanted: dict[str, Any]) -> dict[str, Any]:
    """What one process has to say of a model.

    Memory is what is resident in this process beyond ``before_bytes``, which it had with torch,
    transformers and the model's code imported, before any weight was read.

    Args:
        wanted: ``model``, ``sparse`` and ``dtype`` as `steppe.load` takes them, ``threads``,
            ``prompt`` and ``tokens`` in tokens, ``batches``, ``repeats``.

    Returns:
        ``load_seconds``; ``resident_bytes`` after loading, ``written_bytes`` after all texts,
        ``peak_bytes``, the most while loading (None where the system does not tell);
        ``formats``, and for each batch ``prompt_ms`` and ``token_ms`` of each repeat, and the
        ``text``.
    """
    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    warmed(wanted["model"], wanted["dtype"])
    anew = forget_peak()
    before, begun = resident(), time.perf_counter()
    model = load(wanted["model"], sparse=wanted["sparse"], dtype=wanted["dtype"])
    seconds, most = time.perf_counter() - begun, peak() if anew else None
    gc.collect()
    result: dict[str, Any] = {
        "load_seconds": seconds,
        "before_bytes": before,
        "resident_bytes": resident() - before,
        "peak_bytes": None if most is None else max(most - before, 0),
        "threads": torch.get_num_threads(),
        "formats": [layer.record() for layer in formats_of(model)],
        "batches": {str(batch): _batch(model, batch, wanted) for batch in wanted["batches"]},
    }
    return result | {"written_bytes": resident() - before}


def _batch(model: Any, batch: int, wanted: dict[str, Any]) -> dict[str, Any]:
    """Milliseconds of so many texts at once."""
    words = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(batch)
    prompt = torch.randint(words, (batch, wanted["prompt"]), generator=draw)
    greedy(model, prompt, 2)  # caches, and memory that stays with the process
    first: list[float] = []
    more: list[float] = []
    text: list[list[int]] = []
    for _ in range(wanted["repeats"]):
        one, _ = greedy(model, prompt, 1)
        both, text = greedy(model, prompt, 1 + wanted["tokens"])
        first.append(1000 * one)
        more.append(1000 * (both - one) / wanted["tokens"])
    return {"prompt_ms": first, "token_ms": more, "text": text}


def main(wanted: dict[str, Any]) -> int:
    """Print the result, or the user's error, as JSON; the exit code."""
    try:
        answer, code = measured(wanted), 0
    except SteppeError as error:
        words = ("rule", "got", "consequence", "way_out")
        answer, code = {word: _plain(vars(error)[word]) for word in words}, REFUSED
    print(json.dumps(answer))
    return code


def _plain(value: object) -> str | None:
    return None if value is None else str(value)


if __name__ == "__main__":
    sys.exit(main(json.loads(sys.argv[1])))
