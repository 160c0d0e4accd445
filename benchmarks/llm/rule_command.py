"""The command of a rule that makes a model in memory smaller: its perplexity, and what is left."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from steppe.core.serialization import write_text
from steppe.llm.calibration_windows import windows
from steppe.llm.load import load, tokenizer_of
from steppe.llm.perplexity import perplexity

Rule = Callable[[Any, Tensor, float], dict[str, Any]]
"""(model, calibration windows, share of the blocks' parameters that goes) -> what it tells; the
model is changed in place."""


def command(name: str, rule: Rule, text: str | None) -> None:
    """Apply a rule to a model for each share, measure it, and add the rows to a record."""
    parser = argparse.ArgumentParser(description=text)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--removed", type=float, nargs="+", required=True, help="of the blocks")
    parser.add_argument("--record", type=Path, help="JSON that grows by these rows")
    given = parser.parse_args()
    tokenizer = tokenizer_of(given.model)
    drawn = windows(
        given.calibration, tokenizer, samples=given.samples, window=given.window, seed=given.seed
    ).tokens
    for share in given.removed:
        model, _ = load(str(given.model), dtype="float32")
        before = sum(p.numel() for p in model.parameters())
        began = time.perf_counter()
        told = rule(model, drawn, share)
        seconds = time.perf_counter() - began
        found = perplexity(model, given.evaluate, window=given.window, tokenizer=tokenizer)
        row = {
            "rule": name,
            "removed_asked": share,
            "parameters_dense": before,
            "seed": given.seed,
            "window": given.window,
            "samples": given.samples,
            **told,
            "perplexity": found["perplexity"],
            "seconds": round(seconds, 3),
        }
        print(json.dumps(row), flush=True)
        if given.record is not None:
            rows = json.loads(given.record.read_text()) if given.record.exists() else []
            write_text(given.record, json.dumps([*rows, row], indent=1) + "\n")


def blocks_of(model: Any) -> Any:
    """The decoder blocks of a model of the LLaMA kind."""
    return model.get_decoder().layers


def parameters_of(module: Any) -> int:
    """How many a module has."""
    return sum(p.numel() for p in module.parameters())
