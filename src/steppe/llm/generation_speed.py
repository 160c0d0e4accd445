"""How fast a language model writes here, dense and sparse, in turns and in fresh processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.speed import Speed
from steppe.engine.progress import advanced

REASON = "zeros are neither stored nor read"
Worker = Callable[[dict[str, Any]], dict[str, Any]]
"""What measures one model: see `steppe.llm.generation_worker.measured`."""


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What is written, and how often.

    Args:
        prompt: tokens that are read first.
        tokens: tokens that are written after the first.
        batches: sequences at once.
        threads: of the processor; torch's own number if None.
        turns: fresh processes of each model.
        repeats: texts that each process writes.
    """

    prompt: int = 64
    tokens: int = 32
    batches: tuple[int, ...] = (1, 4)
    threads: int | None = None
    turns: int = 3
    repeats: int = 3


def in_fresh_process(wanted: dict[str, Any]) -> dict[str, Any]:
    """One measurement in a process of its own.

    Raises:
        SteppeError: it failed; with its last line.
    """
    command = [sys.executable, "-m", "steppe.llm.generation_worker", json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise SteppeError(
            "a model that is timed must load and write",
            got=f"{wanted['model']}: {said}",
            way_out="steppe evaluate it on a text first, or give fewer --tokens if memory ran out",
        )
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def compare_speed(
    sparse: str,
    dense: str,
    *,
    format: str = "auto",
    dtypes: tuple[str, ...] = ("float32", "bfloat16"),
    setting: Setting | None = None,
    worker: Worker = in_fresh_process,
) -> dict[str, Any]:
    """A pruned model beside a dense one, each dtype of each.

    Every turn starts one process after the other, every other turn in the other order. What is
    claimed compares the faster dtype of the pruned model with the faster one of the dense.

    Args:
        sparse: folder of the pruned model.
        dense: folder that is loaded with dense matrices; may be the same.
        format: of the pruned one's matrices, see `steppe.load`.
        dtypes: float32, bfloat16, float16.
        setting: what is written.
        worker: measures one model.

    Returns:
        ``arms`` with the medians of each, ``speed`` by batch (``generation``, ``prompt``),
        ``formats`` of the layers, ``same_text`` for each dtype.
    """
    own = setting or Setting()
    arms = {
        f"{kind} {dtype}": {"model": where, "sparse": how, "dtype": dtype}
        for dtype in dtypes
        for kind, where, how in (("dense", dense, "dense"), ("sparse", sparse, format))
    }
    common = {
        "prompt": own.prompt,
        "tokens": own.tokens,
        "batches": list(own.batches),
        "threads": own.threads,
        "repeats": own.repeats,
    }
    if format == "auto":  # what is chosen by measuring is remembered before anything counts
        for name in arms:
            if name.startswith("sparse"):
                worker(arms[name] | common | {"batches": []})
    results: dict[str, list[dict[str, Any]]] = {name: [] for name in arms}
    for turn in range(own.turns):
        for place, name in enumerate(list(arms) if turn % 2 == 0 else reversed(arms)):
            advanced("processes timed", turn * len(arms) + place, own.turns * len(arms))
            results[name].append(worker(arms[name] | common))
    advanced("processes timed", own.turns * len(arms), own.turns * len(arms))
    return {
        "arms": {name: _summary(turns, common) for name, turns in results.items()},
        "speed": {str(batch): _speeds(results, str(batch)) for batch in own.batches},
        "formats": _last(results, "sparse", dtypes)["formats"],
        "same_text": {dtype: _same_text(results, dtype) for dtype in dtypes},
        "setting": common | {"turns": own.turns},
    }


def _last(results: dict[str, list[dict[str, Any]]], kind: str, dtypes: tuple[str, ...]) -> Any:
    fastest = min(dtypes, key=lambda dtype: _median(results[f"{kind} {dtype}"], None, "token_ms"))
    return results[f"{kind} {fastest}"][-1]


def _times(turns: list[dict[str, Any]], batch: str | None, key: str) -> list[float]:
    batch = batch or next(iter(turns[0]["batches"]))
    return [time for turn in turns for time in turn["batches"][batch][key]]


def _median(turns: list[dict[str, Any]], batch: str | None, key: str) -> float:
    return median(_times(turns, batch, key))


def _summary(turns: list[dict[str, Any]], common: dict[str, Any]) -> dict[str, Any]:
    """Medians of one arm, as people read them."""
    batches = {}
    for batch in turns[0]["batches"]:
        written = 1000 * int(batch) / _median(turns, batch, "token_ms")
        read = 1000 * int(batch) * common["prompt"] / _median(turns, batch, "prompt_ms")
        batches[batch] = {"tokens_per_second": written, "prompt_tokens_per_second": read}
    memory = {key: median(turn[key] for turn in turns) for key in ("resident_bytes", "peak_bytes")}
    stored = sum(layer["bytes"] for layer in turns[0]["formats"])
    return {
        **memory,
        "matrices_bytes": stored,
        "load_seconds": median(turn["load_seconds"] for turn in turns),
        "threads": turns[0]["threads"],
        "batches": batches,
    }


def _speeds(results: dict[str, list[dict[str, Any]]], batch: str) -> dict[str, Any]:
    """The faster sparse arm beside the faster dense one, in pairs of one turn."""
    speeds = {}
    for name, key in (("generation", "token_ms"), ("prompt", "prompt_ms")):
        best = {
            kind: min(
                (arm for arm in results if arm.startswith(kind)),
                key=lambda arm: _median(results[arm], batch, key),
            )
            for kind in ("dense", "sparse")
        }
        times = [_times(results[best[kind]], batch, key) for kind in ("dense", "sparse")]
        speeds[name] = best | Speed.of(list(zip(*times, strict=True)), REASON).record()
    return speeds


def _same_text(results: dict[str, list[dict[str, Any]]], dtype: str) -> bool:
    """Whether both wrote the same in every batch."""
    both = [results[f"{kind} {dtype}"][-1]["batches"] for kind in ("dense", "sparse")]
    return all(both[0][batch]["text"] == both[1][batch]["text"] for batch in both[0])
