"""A small language model of another architecture, trained in minutes on one core.

    python benchmarks/llm/train_small.py gpt2 --tokenizer MODEL --text validation.txt \\
        --out runs/models/gpt2

``gpt2``: 4 blocks of 256, LayerNorm, Conv1D weights, GELU. ``opt``: 4 blocks of 192, LayerNorm,
linear layers with biases, ReLU. Both have learned positions and the tokenizer of MODEL. Started
again, it goes on after its last whole epoch. They show what pruning does to another width, norm
and activation, not how good a language model is.
"""

from __future__ import annotations

import argparse
import math
import time
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import (
    AutoTokenizer,
    GPT2Config,
    GPT2LMHeadModel,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
)


def gpt2(vocabulary: int, window: int) -> PreTrainedModel:
    drop = {"resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=vocabulary,
            n_positions=window,
            n_embd=256,
            n_layer=4,
            n_head=4,
            bos_token_id=0,
            eos_token_id=1,
            **drop,
        )
    )


def opt(vocabulary: int, window: int) -> PreTrainedModel:
    return OPTForCausalLM(
        OPTConfig(
            vocab_size=vocabulary,
            max_position_embeddings=window,
            hidden_size=192,
            word_embed_proj_dim=192,
            ffn_dim=768,
            num_hidden_layers=4,
            num_attention_heads=6,
            dropout=0.1,
        )
    )


ARCHITECTURES = {"gpt2": gpt2, "opt": opt}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("architecture", choices=ARCHITECTURES)
    parser.add_argument("--tokenizer", required=True, help="a model's folder")
    parser.add_argument("--text", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--window", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--lr", type=float, default=2e-3)
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(args.tokenizer)
    tokens = tokenizer(args.text.read_text(), return_tensors="pt")["input_ids"][0]
    model = ARCHITECTURES[args.architecture](len(tokenizer), args.window)
    train(model, tokens, args)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)


def train(model: PreTrainedModel, tokens: Tensor, args: argparse.Namespace) -> None:
    matrices = [p for p in model.parameters() if p.ndim > 1]
    rest = [p for p in model.parameters() if p.ndim < 2]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=args.lr, betas=(0.9, 0.95))
    steps = len(tokens) // args.window // args.batch_size
    kept = args.out / "training.pt"
    done = resume(model, optimizer, kept)
    model.train()
    for epoch in range(done, args.epochs):
        began, order = time.perf_counter(), torch.Generator().manual_seed(epoch)
        torch.manual_seed(1_000 + epoch)  # of the dropout, so that a resumed run is the same
        losses = []
        for step, windows in enumerate(batches(tokens, args, order)):
            now = (epoch * steps + step) / (args.epochs * steps)
            for group in optimizer.param_groups:
                group["lr"] = args.lr * min(now / 0.05, 0.5 + 0.5 * math.cos(math.pi * now))
            losses.append(one_step(model, optimizer, windows))
        perplexity = math.exp(sum(losses) / len(losses))
        print(f"epoch {epoch}: {perplexity:.2f}, {time.perf_counter() - began:.0f} s", flush=True)
        kept.parent.mkdir(parents=True, exist_ok=True)
        state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        torch.save(state | {"epochs": epoch + 1}, kept)
    kept.unlink(missing_ok=True)


def resume(model: nn.Module, optimizer: torch.optim.Optimizer, kept: Path) -> int:
    """Epochs that are done, with the model and the optimiser as they were after them."""
    if not kept.exists():
        return 0
    state = torch.load(kept, weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["epochs"])


def batches(tokens: Tensor, args: argparse.Namespace, order: torch.Generator) -> list[Tensor]:
    """All of the text once, from another offset each time, in random order."""
    offset = int(torch.randint(0, args.window, (), generator=order))
    whole = len(tokens[offset:]) // args.window
    windows = tokens[offset:][: whole * args.window].view(whole, args.window)
    shuffled = windows[torch.randperm(whole, generator=order)]
    return [b for b in shuffled.split(args.batch_size) if len(b) == args.batch_size]


def one_step(model: nn.Module, optimizer: torch.optim.Optimizer, windows: Tensor) -> float:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(input_ids=windows).logits
    loss = cross_entropy(logits[:, :-1].float().flatten(0, 1), windows[:, 1:].flatten())
    loss.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return loss.item()


if __name__ == "__main__":
    main()
