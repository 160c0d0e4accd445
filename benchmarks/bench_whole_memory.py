"""The memory of one step of ELSA on a random Llama with 1.1 billion weights, beside its plan.

    python benchmarks/bench_whole_memory.py

Makes a model of TinyLlama-1.1B's shape in bfloat16 (2.2 GB of disk, and 9 GB for the checkpoint),
trains one step with `steppe train` in a process of its own, and reads the peak from its record.
Needs torchao (`pip install 'steppe[llm,adam8bit]'`) and about 16 GB of memory that is free.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
from record_file import add_record, write_record
from safetensors.torch import save_file

from steppe.core.processor import processor
from steppe.engine.run_folder import versions

SHAPE = {
    "hidden_size": 2048,
    "intermediate_size": 5632,
    "num_hidden_layers": 22,
    "num_attention_heads": 32,
    "num_key_value_heads": 4,
    "vocab_size": 32000,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": False,
    "dtype": "bfloat16",
}
METHOD = {"method.name": "elsa", "method.sparsity": 0.9, "method.state_dtype": "bfloat16"}


def model_in(folder: Path) -> int:
    """Write the model, if it is not there; how many weights it has."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SHAPE)
    if not (folder / "config.json").exists():
        torch.manual_seed(0)
        torch.set_default_dtype(torch.bfloat16)
        LlamaForCausalLM(config).save_pretrained(folder, max_shard_size="500MB")
        torch.set_default_dtype(torch.float32)
    with torch.device("meta"):
        return sum(p.numel() for p in LlamaForCausalLM(config).parameters())


def steppe(*arguments: object) -> dict[str, object]:
    """What a command of steppe says as JSON, in a process of its own."""
    command = [sys.executable, "-m", "steppe", *map(str, arguments), "--json", "--quiet"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add_record(parser, "whole-memory")
    parser.add_argument("--model", type=Path, help="where the model is, or is written")
    parser.add_argument("--window", type=int, default=64)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.model or Path(scratch) / "model"
        weights = model_in(folder)
        ids = Path(scratch) / "ids.safetensors"
        draw = torch.Generator().manual_seed(0)
        save_file({"tokens": torch.randint(0, 32000, (2, given.window), generator=draw)}, ids)
        settings = [word for key, value in METHOD.items() for word in ("--set", f"{key}={value}")]
        command = [folder, "--method", "elsa", *settings, "--data", ids, "--window", given.window]
        command += ["--tokens", 1, "--batch-size", 1, "--device", "cpu", "--checkpointing"]
        small = ["--optimizer", "adam8bit"]
        plans = {
            name: steppe("plan", "--whole", *command, *more)["memory_bytes"]
            for name, more in (("adam", []), ("adam8bit", small))
        }
        run = steppe("train", *command, *small, "--out", Path(scratch) / "run")
    record = {
        "what": "one step of ELSA at 90 % on a random Llama, through steppe train",
        "weights": weights,
        "shape": SHAPE,
        "options": [str(x) for x in command[1:] if x != ids] + small,
        "planned_bytes": plans,
        "peak_memory_bytes": run["peak_memory_bytes"],
        "seconds": run["seconds"],
        "precision": run["precision"],
        "zeros": run["sparsity_reached"],
        "processor": processor(),
        "versions": versions(),
    }
    write_record(given.record, record)
    print(f"peak {record['peak_memory_bytes'] / 2**30:.2f} GiB, planned {plans['adam8bit']}")


if __name__ == "__main__":
    main()
