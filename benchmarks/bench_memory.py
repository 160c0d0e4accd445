"""A language model larger than the memory it is pruned in.

    python benchmarks/bench_memory.py

A random Llama of 1.5 billion parameters (bfloat16, 2.9 GB in shards) is written shard by shard and
pruned by ``steppe prune`` in a process whose private memory the operating system limits to less
than the model's bytes (RLIMIT_DATA: heap, stacks and private mappings count, shared mappings of
files do not). Then plain transformers loads the result, and every layer's zeros are counted.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import torch
from record_file import add_record, write_record
from safetensors.torch import save_file
from torch import Tensor

SHARD = 500_000_000
ARMS = {
    "wanda 50%": ["--method", "wanda", "--sparsity", "0.5"],
    "sparsegpt 50%": ["--method", "sparsegpt", "--sparsity", "0.5"],
    "wanda 2:4": ["--method", "wanda", "--structure", "2:4"],
}


def shapes(layers: int, hidden: int, inner: int, vocabulary: int) -> Iterator[tuple[str, Any]]:
    """Name and shape of a Llama's weights, 32 heads of which 8 are keys and values."""
    yield "model.embed_tokens.weight", (vocabulary, hidden)
    for i in range(layers):
        block = f"model.layers.{i}"
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            rows = hidden // 4 if name in ("k_proj", "v_proj") else hidden
            yield f"{block}.self_attn.{name}.weight", (rows, hidden)
        yield f"{block}.mlp.gate_proj.weight", (inner, hidden)
        yield f"{block}.mlp.up_proj.weight", (inner, hidden)
        yield f"{block}.mlp.down_proj.weight", (hidden, inner)
        yield f"{block}.input_layernorm.weight", (hidden,)
        yield f"{block}.post_attention_layernorm.weight", (hidden,)
    yield "model.norm.weight", (hidden,)
    yield "lm_head.weight", (vocabulary, hidden)


def make(folder: Path, layers: int, hidden: int, inner: int, vocabulary: int) -> None:
    """Write the model; one shard is in memory at a time."""
    from transformers import LlamaConfig

    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=32,
        num_key_value_heads=8,
        max_position_embeddings=2048,
        architectures=["LlamaForCausalLM"],
        dtype="bfloat16",
    )
    config.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    where: dict[str, str] = {}
    held: dict[str, Tensor] = {}
    shard = 1

    def flush() -> None:
        nonlocal shard
        name = f"model-{shard:05d}.safetensors"
        save_file(held, folder / name, {"format": "pt"})
        where.update(dict.fromkeys(held, name))
        held.clear()
        shard += 1

    for name, shape in shapes(layers, hidden, inner, vocabulary):
        size = 2 * torch.Size(shape).numel()
        if sum(2 * t.numel() for t in held.values()) + size > SHARD:
            flush()
        if len(shape) == 1:
            held[name] = torch.ones(shape, dtype=torch.bfloat16)
        else:
            drawn = torch.empty(shape, dtype=torch.bfloat16)
            held[name] = drawn.normal_(0.0, 0.02, generator=generator)
    flush()
    total = sum(p.stat().st_size for p in folder.glob("model-*.safetensors"))
    index = {"metadata": {"total_size": total}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def status(pid: int) -> dict[str, int]:
    """The memory of a process, in bytes, as Linux counts it."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines)
    return {k: 1024 * int(v.split()[0]) for k, v in pairs if v.strip().endswith("kB")}


def limited(command: list[str], limit: int) -> tuple[dict[str, Any], str]:
    """Run a command under the limit; its peaks, and what it printed."""

    def impose() -> None:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

    peaks = {"VmHWM": 0, "VmData": 0, "RssAnon": 0}
    began = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, preexec_fn=impose)
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.02):
            found = status(child.pid)
            for key in peaks:
                peaks[key] = max(peaks[key], found.get(key, 0))

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    printed, _ = child.communicate()
    ended.set()
    watcher.join()
    if child.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {child.returncode}")
    row = {
        "seconds": round(time.perf_counter() - began, 1),
        "limit_bytes": limit,
        "peak_private_mapped_bytes": peaks["VmData"],
        "peak_private_resident_bytes": peaks["RssAnon"],
        "peak_resident_bytes": peaks["VmHWM"],
    }
    return row, printed


def zeros(folder: Path) -> dict[str, Any]:
    """Reload with plain transformers; the fraction of zeros of each layer in the blocks."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype="auto")
    counts = {
        name: (p.numel() - int(p.count_nonzero()), p.numel())
        for name, p in model.named_parameters()
        if ".layers." in name and p.ndim == 2
    }
    fours = all(
        bool((p.detach().reshape(-1, 4) == 0).sum(1).eq(2).all())
        for name, p in model.named_parameters()
        if name in counts
    )
    with torch.no_grad():
        finite = bool(model(torch.arange(8)[None]).logits.isfinite().all())
    return {
        "layers": len(counts),
        "sparsity_reached": sum(z for z, _ in counts.values()) / sum(n for _, n in counts.values()),
        "layers_with_exactly_half": sum(2 * z == n for z, n in counts.values()),
        "every_four_has_two_zeros": fours,
        "finite_logits": finite,
    }


def in_child(folder: Path) -> dict[str, Any]:
    """`zeros` in a process of its own, so that this one stays small."""
    command = [sys.executable, __file__, "--count", str(folder)]
    found: dict[str, Any] = json.loads(
        subprocess.run(command, capture_output=True, check=True).stdout
    )
    return found


def measure(folder: Path, scratch: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Every arm, one after the other; the pruned model of one is removed before the next."""
    import shutil

    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = torch.Generator().manual_seed(1)
    windows = (arguments.samples, arguments.window)
    tokens = torch.randint(0, vocabulary, windows, generator=generator)
    save_file({"tokens": tokens}, scratch / "tokens.safetensors")
    rows = {}
    for name in arguments.arms:
        out = scratch / "pruned"
        command = [sys.executable, "-m", "steppe.cli.main", "prune", str(folder), *ARMS[name]]
        # dense copies for the layers' errors are kept as ever, few products are spent on them
        command += ["--measure", "1", "--device", "cpu"]
        command += ["--calibration", str(scratch / "tokens.safetensors"), "--out", str(out)]
        row, printed = limited([*command, "--json"], arguments.limit)
        record = json.loads(printed)
        row |= {k: record[k] for k in ("seconds_pruning", "seconds_by_part")}
        row["checkpoint_bytes"] = record["sparse"]["bytes"]
        rows[name] = row | in_child(out)
        print(name, json.dumps(rows[name]), file=sys.stderr, flush=True)
        shutil.rmtree(out)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path, help="a folder; made if left out")
    parser.add_argument("--scratch", type=Path, help="where to work, 7 GB [the system's]")
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--limit", type=float, default=3e9, help="bytes of private memory")
    parser.add_argument("--samples", type=int, default=4)
    parser.add_argument("--window", type=int, default=128)
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    add_record(parser, "memory")
    parser.add_argument("--count", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.limit = int(arguments.limit)
    if arguments.count:
        print(json.dumps(zeros(arguments.count)))
        return
    with tempfile.TemporaryDirectory(dir=arguments.scratch) as temporary:
        folder = arguments.model or Path(temporary) / "model"
        made: dict[str, int] = {}
        if not (folder / "config.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            make(folder, arguments.layers, 2048, 8192, 32000)
            made = {"peak_resident_bytes": status(os.getpid())["VmHWM"]}
        bytes_held = sum(p.stat().st_size for p in folder.glob("*.safetensors"))
        result = {
            "date": date.today().isoformat(),
            "torch": torch.__version__,
            "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
            "model_bytes": bytes_held,
            "blocks": json.loads((folder / "config.json").read_text())["num_hidden_layers"],
            "making_it": made,
            "calibration": {"samples": arguments.samples, "window": arguments.window},
            "arms": measure(folder, Path(temporary), arguments),
        }
    result["model_over_limit"] = bytes_held / arguments.limit
    print(json.dumps(result, indent=1))
    write_record(arguments.record, result)


if __name__ == "__main__":
    main()
