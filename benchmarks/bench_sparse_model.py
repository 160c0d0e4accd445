"""A whole language model with zeros: tokens per second and memory beside the dense one.

    python benchmarks/bench_sparse_model.py
    PYTHONPATH=PEER python benchmarks/bench_sparse_model.py --llamacpp

A Llama of 0.55 billion random weights (beyond every cache) is written once for each sparsity; the
least of each matrix are zero, embeddings and head are dense. ``steppe bench`` times it in turns and
in fresh processes. With ``--llamacpp`` the packed model takes turns with llama.cpp too, which
multiplies the same weights as a dense file of bfloat16 and of float16; PEER is where
llama-cpp-python is. What is in the record already is not done again.

What it costs: 1.1 GB of disk for each of three sparsities, 3.3 for llama.cpp, 3 GB of memory, about
four minutes each, and three with llama.cpp.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from record_file import add_record, write_record
from safetensors.torch import save_file
from torch import Tensor
from transformers import LlamaConfig

from steppe.core.speed import Speed
from steppe.llm.generation_speed import Setting, compare_speed, in_fresh_process
from steppe.sparse.choose import conditions

SPARSITIES = (0.5, 0.7, 0.9)
CONFIG = LlamaConfig(
    architectures=["LlamaForCausalLM"],
    hidden_size=2048,
    intermediate_size=5632,
    num_hidden_layers=11,
    num_attention_heads=32,
    num_key_value_heads=4,
    vocab_size=32000,
    max_position_embeddings=2048,
    tie_word_embeddings=True,
    dtype="bfloat16",
    eos_token_id=None,
    bos_token_id=None,
)
SETTING = Setting(prompt=32, tokens=32, batches=(1,), turns=8, repeats=1)
PEER_DTYPES = ("bf16", "f16")


def matrices() -> Iterator[tuple[str, tuple[int, int]]]:
    """The names and shapes [outputs, inputs] of a block's linear layers."""
    width, inner = CONFIG.hidden_size, CONFIG.intermediate_size
    keys = CONFIG.num_key_value_heads * width // CONFIG.num_attention_heads
    yield "self_attn.q_proj", (width, width)
    yield "self_attn.k_proj", (keys, width)
    yield "self_attn.v_proj", (keys, width)
    yield "self_attn.o_proj", (width, width)
    yield "mlp.gate_proj", (inner, width)
    yield "mlp.up_proj", (inner, width)
    yield "mlp.down_proj", (width, inner)


def weights(sparsity: float) -> dict[str, Tensor]:
    """Every tensor, normal numbers, in bfloat16."""
    draw = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return (0.02 * torch.randn(shape, generator=draw)).bfloat16()

    tensors = {"model.embed_tokens.weight": normal(CONFIG.vocab_size, CONFIG.hidden_size)}
    for block in range(CONFIG.num_hidden_layers):
        for name, shape in matrices():
            weight = normal(*shape)
            sample = weight.flatten()[: 2**20].abs().float()
            threshold = torch.quantile(sample, sparsity)
            kept = weight.abs() > threshold if sparsity else torch.ones_like(weight, dtype=bool)
            tensors[f"model.layers.{block}.{name}.weight"] = weight.where(kept, 0.0)
        for norm in ("input_layernorm", "post_attention_layernorm"):
            one = torch.ones(CONFIG.hidden_size, dtype=torch.bfloat16)
            tensors[f"model.layers.{block}.{norm}.weight"] = one
    tensors["model.norm.weight"] = torch.ones(CONFIG.hidden_size, dtype=torch.bfloat16)
    return tensors


def written(work: Path, sparsity: float) -> Path:
    """The model's folder, made where it is not there."""
    folder = work / f"llama-{sparsity:g}"
    if not (folder / "model.safetensors").is_file():
        folder.mkdir(parents=True, exist_ok=True)
        CONFIG.save_pretrained(folder)
        save_file(weights(sparsity), folder / "unfinished", {"format": "pt"})
        (folder / "unfinished").rename(folder / "model.safetensors")
    return folder


def llamacpp(folder: Path, work: Path, dtype: str) -> dict[str, Any]:
    """One fresh process of llama.cpp, with the same prompt length, tokens and threads."""
    numbers = {
        "threads": torch.get_num_threads(),
        "prompt": SETTING.prompt,
        "tokens": SETTING.tokens,
        "repeats": SETTING.repeats,
    }
    given = [word for key, value in numbers.items() for word in (f"--{key}", str(value))]
    where = ["--model", str(folder), "--dtype", dtype, "--work", str(work)]
    command = [sys.executable, str(Path(__file__).with_name("llamacpp_peer.py")), *where, *given]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    measured: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return measured


def beside_llamacpp(folder: Path, work: Path) -> dict[str, Any]:
    """The packed model and llama.cpp's dense ones, a fresh process of each in a turn."""
    wanted = {"model": str(folder), "sparse": "auto", "dtype": "bfloat16"}
    own = wanted | {key: getattr(SETTING, key) for key in ("prompt", "tokens", "threads")}
    own |= {"batches": [1], "repeats": SETTING.repeats}
    arms = ["packed", *PEER_DTYPES]
    taken: dict[str, list[dict[str, Any]]] = {arm: [] for arm in arms}
    for turn in range(SETTING.turns):
        for arm in arms if turn % 2 == 0 else reversed(arms):
            if arm == "packed":
                times = in_fresh_process(own)
                times |= times["batches"]["1"]
            else:
                times = llamacpp(folder, work, arm)
            taken[arm].append(times)
    each = {arm: [median(turn["token_ms"]) for turn in turns] for arm, turns in taken.items()}
    return {
        arm: {
            "tokens_per_second": 1000 / median(each[arm]),
            "resident_bytes": median(turn["resident_bytes"] for turn in taken[arm]),
            "packed": Speed.of(
                list(zip(each[arm], each["packed"], strict=True)), "zeros are not read"
            ).record(),
        }
        | ({} if arm == "packed" else {"system": taken[arm][0]["system"]})
        for arm in arms
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument(
        "--work", type=Path, default=Path("runs/sparse-model"), help="where the models are written"
    )
    parser.add_argument("--sparsity", type=float, help="only this one")
    parser.add_argument("--llamacpp", action="store_true", help="beside llama.cpp instead")
    add_record(parser, "sparse-model")
    arguments = parser.parse_args()
    here = conditions()
    record = arguments.record
    stored: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    models = stored["models"] if stored.get("conditions") == here else {}
    for sparsity in SPARSITIES if arguments.sparsity is None else (arguments.sparsity,):
        own = models.setdefault(f"{sparsity:g}", {})
        what = "llamacpp" if arguments.llamacpp else "bench"
        if what in own:
            continue
        folder = written(arguments.work, sparsity)
        if arguments.llamacpp:
            own[what] = beside_llamacpp(folder, arguments.work)
        else:
            own[what] = summary(compare_speed(str(folder), str(folder), setting=SETTING))
        print(sparsity, own[what], flush=True)
        write_record(record, {"conditions": here, "models": models})


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The result with a count of the layers by format in the place of each one."""
    formats: dict[str, int] = {}
    for layer in result["formats"]:
        key = f"{layer['format']} ({layer['stored']})"
        formats[key] = formats.get(key, 0) + 1
    return result | {"formats": formats}


if __name__ == "__main__":
    main()
