"""Smaller language models: the time that a table of blocks predicts, beside the measured one.

    python benchmarks/llm/bench_latency.py --model ../shared/models/tiny-llama

Times are those of a prompt of 256 tokens and 64 new ones, with two threads. For each model the
table is measured (``steppe latency``). Then models of several shapes are written with random
weights, on which time does not depend: the dense one; the most even cuts of neurons and heads to
three quarters and to 62.5 % of the parameters; neurons alone to 75 %; blocks alone to 75 %. Each
is timed as ``steppe bench`` does, in turns of fresh processes. The record holds both times, by how
much the prediction is off, and how many times as fast as the dense model each cut one writes.

Beside the folders that are named there are two models of half a billion random weights, a Llama
and a Qwen2. What is in the record already is not done again; a table goes on where it was. It must
be run on a machine that does nothing else.

What it costs: 6 GB of disk and 3 GB of memory, and about half an hour for each model of half a
billion weights; a few minutes for tiny-llama.
"""

from __future__ import annotations

import argparse
import copy
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import LlamaConfig, Qwen2Config

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from record_file import add_record, write_record

from steppe.core.speed import Speed
from steppe.llm.generation_speed import in_fresh_process
from steppe.llm.load import DTYPES
from steppe.llm.skeleton import read_config
from steppe.llm.structured.block_timing import built, measure
from steppe.llm.structured.latency import GenerationTable, Times
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_heads, shapes
from steppe.removal.transformer_config import update_config

REASON = "neurons, heads or blocks are gone"
NO_END = {"eos_token_id": None, "bos_token_id": None, "dtype": "bfloat16"}
RANDOM = {
    "llama-0.5b": LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=1024,
        intermediate_size=5632,
        num_hidden_layers=24,
        num_attention_heads=16,
        num_key_value_heads=8,
        vocab_size=32000,
        tie_word_embeddings=True,
        **NO_END,
    ),
    "qwen2-0.5b": Qwen2Config(
        architectures=["Qwen2ForCausalLM"],
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        vocab_size=151936,
        tie_word_embeddings=True,
        **NO_END,
    ),
}
CUTS = (
    ("parameters=0.75", ("neurons", "heads")),
    ("parameters=0.625", ("neurons", "heads")),
    ("parameters=0.75", ("neurons",)),
    ("parameters=0.75", ("blocks",)),
)


def arms(config: Any, whole: Shape) -> Iterator[tuple[str, Shape]]:
    """Name and shape of each model that is timed."""
    yield "dense", whole
    heads = accepted_heads(config.to_dict(), whole)
    for target, kinds in CUTS:
        multiple = 8 if "neurons" in kinds else 1
        own = heads if "heads" in kinds else None
        best, *_ = shapes(Target.parse(target), whole, kinds, heads=own, multiple=multiple)
        yield f"{target} of {'+'.join(kinds)}", best


def written(config: Any, shape: Shape, folder: Path) -> Path:
    """A model of random weights, made where it is not there."""
    if not (folder / "config.json").is_file():
        model = built(copy.deepcopy(config), shape, torch.bfloat16, "cpu")
        reason = update_config(model)
        assert not reason, reason
        model.config.dtype = torch.bfloat16
        unfinished = folder.with_name(f"{folder.name}-unfinished")
        model.save_pretrained(unfinished)
        unfinished.rename(folder)
    return folder


def compared(
    config: Any, table: GenerationTable, whole: Shape, work: Path, asked: argparse.Namespace
) -> dict[str, Any]:
    """Predicted and measured, for each shape."""
    found = dict(arms(config, whole))
    folders = {
        name: written(config, shape, work / f"arm-{number}")
        for number, (name, shape) in enumerate(found.items())
    }
    common = {"sparse": "dense", "dtype": asked.dtype, "prompt": table.prompt, "batches": [1]}
    common |= {"tokens": table.tokens - 1, "threads": asked.threads, "repeats": asked.repeats}
    taken: dict[str, list[Times]] = {name: [] for name in found}
    for turn in range(asked.turns):
        for name in found if turn % 2 == 0 else reversed(found):
            own = in_fresh_process(common | {"model": str(folders[name])})["batches"]["1"]
            prompt, token = median(own["prompt_ms"]), median(own["token_ms"])
            taken[name].append(Times(prompt, token, table.tokens))
    return {name: row(table, shape, taken[name], taken["dense"]) for name, shape in found.items()}


def row(
    table: GenerationTable, shape: Shape, own: list[Times], dense: list[Times]
) -> dict[str, Any]:
    """One shape's times, and what they are beside those of the dense one."""
    predicted, said = table.times(shape), {"shape": shape.said(), "parameters": shape.parameters}
    for what in ("prompt", "token", "total"):
        measured = median(getattr(times, what) for times in own)
        foreseen = getattr(predicted, what)
        said |= {
            f"{what}_ms": measured,
            f"{what}_ms_predicted": foreseen,
            f"{what}_error": foreseen / measured - 1,
        }
    for what in ("token", "total"):
        pairs = [(getattr(d, what), getattr(o, what)) for d, o in zip(dense, own, strict=True)]
        said[f"{what}_speed"] = Speed.of(pairs, REASON).record()
    return said


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", type=Path, action="append", default=[], help="a folder")
    parser.add_argument("--only", action="append", help="these models, by name")
    parser.add_argument("--work", type=Path, default=Path("runs/latency"), help="tables and models")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", default="float32", choices=list(DTYPES))
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5, help="of the table")
    parser.add_argument("--turns", type=int, default=8, help="fresh processes of each model")
    parser.add_argument("--repeats", type=int, default=3, help="texts of each process")
    add_record(parser, "latency")
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    models = {path.name: read_config(path) for path in asked.model} | RANDOM
    record = asked.record
    stored: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    for name, config in models.items():
        if name in stored or (asked.only and name not in asked.only):
            continue
        work = asked.work / name
        work.mkdir(parents=True, exist_ok=True)
        table = measure(
            config,
            prompt=asked.prompt,
            tokens=asked.tokens,
            dtype=DTYPES[asked.dtype],
            multiple=8,
            passes=asked.passes,
            path=work / f"table-{asked.dtype}.json",
            say=lambda text: print(text, flush=True),
        )
        shown = compared(config, table, Shape.of(config), work, asked)
        for arm, each in shown.items():
            print(name, arm, each, flush=True)
        stored[name] = {
            "conditions": table.conditions,
            "text": table.text,
            "spread": table.spread,
            "turns": asked.turns,
            "arms": shown,
        }
        write_record(record, stored)


if __name__ == "__main__":
    main()
