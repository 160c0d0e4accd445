"""One model's speed in a process of its own: ``python -m steppe.llm.generation_worker JSON``."""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import psutil
import torch

from steppe.llm.load_sparse import load
from steppe.sparse import formats_of


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(psutil.Process().memory_info().rss)


def peak() -> int:
    """The most bytes of this process that ever were; 0 where the system does not tell."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:
            own = [line for line in status if line.startswith("VmHWM")]
    except OSError:
        return 0
    return 1024 * int(own[0].split()[1]) if own else 0


def greedy(model: Any, prompt: torch.Tensor, tokens: int) -> tuple[float, list[list[int]]]:
    """Seconds that so many new tokens take, and which they are."""
    begun = time.perf_counter()
    answer = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        min_new_tokens=tokens,
        max_new_tokens=tokens,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
    )
    return time.perf_counter() - begun, answer[:, prompt.shape[1] :].tolist()


@torch.inference_mode()
def measured(wanted: dict[str, Any]) -> dict[str, Any]:
    """What one process has to say of a model.

    Args:
        wanted: ``model``, ``sparse`` and ``dtype`` as `steppe.load` takes them, ``threads``,
            ``prompt`` and ``tokens`` in tokens, ``batches``, ``repeats``.

    Returns:
        ``load_seconds``, ``resident_bytes`` and ``peak_bytes`` that loading took, ``formats``,
        and for each batch ``prompt_ms`` and ``token_ms`` of each repeat, and the ``text``.
    """
    if wanted["threads"]:
        torch.set_num_threads(wanted["threads"])
    before, begun = resident(), time.perf_counter()
    model = load(wanted["model"], sparse=wanted["sparse"], dtype=wanted["dtype"])
    seconds, after = time.perf_counter() - begun, resident()
    result: dict[str, Any] = {
        "load_seconds": seconds,
        "resident_bytes": after - before,
        "peak_bytes": max(peak() - before, 0),
        "threads": torch.get_num_threads(),
        "formats": [layer.record() for layer in formats_of(model)],
        "batches": {},
    }
    words = model.config.get_text_config().vocab_size
    draw = torch.Generator().manual_seed(0)
    for batch in wanted["batches"]:
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
        result["batches"][str(batch)] = {"prompt_ms": first, "token_ms": more, "text": text}
    return result


if __name__ == "__main__":
    print(json.dumps(measured(json.loads(sys.argv[1]))))
