"""Swaps and budgets by layer on a small language model: one process, a record that grows.

    python benchmarks/llm/swaps_and_budgets.py MODEL --calibration validation.txt \\
        --evaluate test.txt --runs benchmarks/llm/swaps.yaml \\
        --record benchmarks/records/llm-swaps.json

Calibration and what chooses between options come from the calibration text alone: its windows, and
as ``chosen_by`` the perplexity on the last tenth of it. The text of ``--evaluate`` is measured for
runs that say ``test: true``. Runs that are done are not repeated.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

import steppe
from steppe.core.serialization import write_text
from steppe.llm.calibration_windows import windows
from steppe.llm.load import load, tokenizer_of
from steppe.llm.perplexity import perplexity
from steppe.llm.text import read, tokenize


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calibration", required=True)
    parser.add_argument("--evaluate", required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    parser.add_argument("--runs", type=Path, required=True, help="YAML: name -> options")
    parser.add_argument("--only", nargs="*", help="names of runs")
    parser.add_argument("--record", type=Path, required=True)
    arguments = parser.parse_args()
    tokenizer = tokenizer_of(arguments.model)
    own = tokenize(tokenizer, read(arguments.calibration, "test").joined())
    texts = {
        "chosen_by": own[-(len(own) // 10) :],
        "perplexity": tokenize(tokenizer, read(arguments.evaluate, "test").joined()),
    }
    record = arguments.record
    done = json.loads(record.read_text()) if record.exists() else {"runs": []}
    done |= {"window": arguments.window, "samples": arguments.samples, "processor": _processor()}
    known = {(run["name"], run["seed"]) for run in done["runs"]}
    for seed in arguments.seeds:
        drawn = windows(
            arguments.calibration,
            tokenizer,
            samples=arguments.samples,
            window=arguments.window,
            seed=seed,
        ).tokens
        for name, options in yaml.safe_load(arguments.runs.read_text()).items():
            if (name, seed) in known or (arguments.only and name not in arguments.only):
                continue
            run = one(arguments.model, options, drawn, texts, seed)
            done["runs"].append({"name": name, "seed": seed, "options": options} | run)
            write_text(record, json.dumps(done, indent=1) + "\n")
            print(name, seed, {k: v for k, v in run.items() if isinstance(v, float)}, flush=True)


def measured(folder: Path, texts: dict[str, Tensor], window: int) -> dict[str, float]:
    """Text -> perplexity of the model in a folder."""
    model, _ = load(str(folder), dtype="float32")
    found = {n: perplexity(model, t, window=window, batch=16) for n, t in texts.items()}
    return {name: one["perplexity"] for name, one in found.items()}


def one(
    model: Path, options: dict[str, Any], tokens: Tensor, texts: dict[str, Tensor], seed: int
) -> dict[str, Any]:
    """A run's row: perplexities, and the error of each layer.

    Args:
        model: folder of the dense model.
        options: of the method, with its name as ``method``, ``swaps``, whole parts by axis as
            ``parts``, and whether the test text is measured as ``test``.
        tokens: calibration windows.
        texts: name -> tokens to measure on.
        seed: of the run.
    """
    given = dict(options)
    name, swaps, parts = given.pop("method"), given.pop("swaps", None), given.pop("parts", {})
    if not given.pop("test", False):
        texts = {"chosen_by": texts["chosen_by"]}
    method = steppe.methods.make(name, **given).for_language()
    if swaps is not None:
        method = steppe.methods.with_swaps(method, swaps)
    method = method.replace(**parts)
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "pruned"
        record = steppe.prune(model, method, tokens, out, seed=seed)
        layers = [layer for block in record["blocks"] for layer in block["layers"]]
        errors = {x["name"]: x["output_error"] for x in layers}
        return measured(out, texts, tokens.shape[1]) | {
            "error": sum(errors.values()) / len(errors),
            "errors": errors,
            "sparsities": {x["name"]: x["sparsity_reached"] for x in layers},
            "sparsity": record["sparsity_reached"],
            "seconds_pruning": record["seconds_pruning"],
            "threads": torch.get_num_threads(),
        }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))


if __name__ == "__main__":
    main()
