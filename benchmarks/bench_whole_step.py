"""A step of `steppe train MODEL` beside one of a plain loop with transformers, on the same text.

    python benchmarks/bench_whole_step.py

The plain loop has what a training needs: autocast, the model's own loss, clipping, Adam. Each run
is a process of its own, in turns; what is compared is the median of their ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from record_file import add_record, write_record
from safetensors.torch import load_file, save_file

from steppe.core.processor import processor
from steppe.engine.run_folder import versions

SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 672,
    "num_hidden_layers": 6,
    "num_attention_heads": 8,
    "vocab_size": 4096,
}
WINDOW, BATCH, STEPS = 256, 8, 16
METHODS = {
    "dense": [],
    "gmp": ["--sparsity", "0.9"],
    "elsa": ["--sparsity", "0.9", "--penalty", "auto", "--interval", "8"],
    "safe": ["--sparsity", "0.9", "--interval", "8"],
}
MAPPED = """
import sys
from steppe.cli.main import main
from steppe.engine import host_memory as memory
memory._set(*memory._MAPPED)
memory._set = lambda mapping, trim: None
main(sys.argv[1:])
"""
"""A training in which each large tensor is a mapping of its own, as within `memory.mapped`."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add_record(parser, "whole-step")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--precision", default="bfloat16", choices=["bfloat16", "float32"])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--plain", type=Path, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    if given.plain:
        print(plain_loop(given.plain, given.precision == "bfloat16"))
        return
    with tempfile.TemporaryDirectory() as scratch:
        seconds = measured(Path(scratch), given)
    ratios = {
        name: [own / peer for own, peer in zip(seconds[name], seconds["plain"], strict=True)]
        for name in seconds
    }
    record = {
        "what": "seconds a step; a plain loop with transformers beside steppe train",
        "processor": processor(),
        "threads": given.threads,
        "shape": SHAPE,
        "window": WINDOW,
        "batch": BATCH,
        "precision": given.precision,
        "versions": versions(),
        "seconds": seconds,
        "ratio": {name: statistics.median(found) for name, found in ratios.items()},
        "ratios": ratios,
    }
    write_record(given.record, record)
    print(json.dumps(record["ratio"], indent=1))


def measured(scratch: Path, given: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds a step of each, in turns."""
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(**SHAPE)).save_pretrained(scratch / "model")
    ids = torch.randint(0, SHAPE["vocab_size"], (BATCH * STEPS, WINDOW))
    save_file({"tokens": ids}, scratch / "ids.safetensors")
    own = [sys.executable, __file__, "--plain", str(scratch)]
    own += ["--precision", given.precision, "--threads", str(given.threads)]
    steppe, mapped = ["-m", "steppe"], ["-c", MAPPED]
    found: dict[str, list[float]] = {name: [] for name in ("plain", *METHODS, "dense, mapped")}
    for repeat in range(given.repeats):
        done = subprocess.run(own, capture_output=True, text=True, check=True, env=env(given))
        found["plain"].append(float(done.stdout.split()[-1]))
        for name, flags in METHODS.items():
            out = scratch / f"{name}-{repeat}"
            found[name].append(trained(steppe, name, flags, out, given))
        found["dense, mapped"].append(trained(mapped, "dense", [], scratch / f"m-{repeat}", given))
        print({name: f"{times[-1]:.3f}" for name, times in found.items()}, flush=True)
    return found


def env(given: argparse.Namespace) -> dict[str, str]:
    """Of every run: so many threads."""
    return os.environ | {"OMP_NUM_THREADS": str(given.threads)}


def trained(
    start: list[str], name: str, flags: list[str], out: Path, given: argparse.Namespace
) -> float:
    """Seconds a step of the second half of a run."""
    scratch = out.parent
    command = [sys.executable, *start, "train", str(scratch / "model"), "--method", name, *flags]
    command += ["--data", str(scratch / "ids.safetensors"), "--window", str(WINDOW)]
    command += ["--batch-size", str(BATCH), "--tokens", str(WINDOW * BATCH * STEPS)]
    command += ["--precision", given.precision, "--set", "train.parts=2", "--device", "cpu"]
    whole = [*command, "--out", str(out), "--quiet"]
    subprocess.run(whole, capture_output=True, check=True, env=env(given))
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    half, all_of_it = (WINDOW * BATCH * row["step"] / row["tokens_per_second"] for row in rows)
    return float((all_of_it - half) / (STEPS - STEPS // 2))


def plain_loop(scratch: Path, low: bool) -> float:
    """Seconds a step of the second half of a loop that prunes nothing."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(scratch / "model", dtype=torch.float32).train()
    windows = load_file(scratch / "ids.safetensors")["tokens"].split(BATCH)
    adam = torch.optim.Adam(model.parameters(), lr=2e-4, betas=(0.9, 0.95))
    for step, tokens in enumerate(windows):
        if step == STEPS // 2:
            began = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        adam.zero_grad()
    return (time.perf_counter() - began) / (STEPS - STEPS // 2)


if __name__ == "__main__":
    main()
