"""One pruning by llm-compressor, run by bench_llmcompressor.py in the peer's own environment.

    PEER/python benchmarks/llmcompressor_peer.py --model DIR --tokens FILE.safetensors \
        --method sparsegpt --sparsity 0.5 --structure unstructured --out DIR

It imports nothing of steppe. One JSON object on the last line of standard output.
"""

from __future__ import annotations

import argparse
import json
import time
from importlib.metadata import version


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("model", "tokens", "method", "structure", "out"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--sparsity", type=float, required=True)
    arguments = parser.parse_args()

    import torch
    from datasets import Dataset
    from llmcompressor import oneshot
    from llmcompressor.modifiers.pruning import SparseGPTModifier, WandaPruningModifier
    from safetensors.torch import load_file
    from transformers import AutoConfig, AutoModelForCausalLM

    begun = time.perf_counter()
    stored = AutoConfig.from_pretrained(arguments.model).dtype
    model = AutoModelForCausalLM.from_pretrained(arguments.model, dtype=torch.float32)
    tokens = load_file(arguments.tokens)["tokens"]
    rows = {"input_ids": tokens.tolist(), "attention_mask": torch.ones_like(tokens).tolist()}
    shape = "0:0" if arguments.structure == "unstructured" else arguments.structure
    shared = {
        "sparsity": arguments.sparsity,
        "mask_structure": shape,
        "targets": ["Linear"],
        "ignore": ["re:.*lm_head"],
    }
    modifier = {
        "sparsegpt": lambda: SparseGPTModifier(**shared, block_size=128, dampening_frac=0.01),
        "wanda": lambda: WandaPruningModifier(**shared),
    }[arguments.method]()
    pruning = time.perf_counter()
    oneshot(
        model=model,
        dataset=Dataset.from_dict(rows),
        recipe=[modifier],
        num_calibration_samples=len(tokens),
        max_seq_length=tokens.shape[1],
        shuffle_calibration_samples=False,
    )
    pruned = time.perf_counter()
    model.to(stored).save_pretrained(arguments.out, save_compressed=False)
    done = time.perf_counter()
    print(
        json.dumps(
            {
                "seconds_pruning": pruned - pruning,
                "seconds": done - begun,
                "versions": {n: version(n) for n in ("llmcompressor", "transformers", "torch")},
            }
        )
    )


if __name__ == "__main__":
    main()
