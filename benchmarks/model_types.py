"""Every causal language model of transformers that builds tiny: pruned, read again, measured twice.

    python benchmarks/model_types.py --log runs/model-types.jsonl

For each model type: a model from the class's own defaults, made small, with random weights; pruned
with SparseGPT; read again by plain transformers; its loss measured by steppe's walk over the
blocks and by one plain forward pass. ``pruned`` means that both losses agree within 1e-4, before
and after, and that half of the weights are zeros. ``refused`` means one line, and no folder.

Everything runs in one process, one type after the other, each with a time limit. Each outcome is a
line of the log at once: started again, the types in it are not done again (``--again failed`` does
those anew that ended so).
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import signal
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from record_file import add_record, write_record
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers.models.auto.configuration_auto import CONFIG_MAPPING
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

import steppe
from steppe.llm.model import StreamedModel
from steppe.llm.streamed import streamed_perplexity

VOCABULARY, WINDOW, LARGEST = 96, 16, 20_000_000
CLOSE = 1e-4

# the end of a field's name -> its value; the first that fits
SIZES: list[tuple[tuple[str, ...], int]] = [
    (("vocab_size", "vocab_size_per_layer_input", "n_vocab"), VOCABULARY),
    (("num_hidden_layers", "n_layer", "n_layers", "num_layers", "num_blocks"), 2),
    (("encoder_layers", "decoder_layers", "num_decoder_layers", "num_encoder_layers"), 2),
    (("num_key_value_heads", "num_kv_heads", "n_kv_heads", "global_num_key_value_heads"), 2),
    (("attention_heads", "n_head", "n_heads", "num_heads"), 4),
    (
        (
            "num_experts_per_tok",
            "num_experts_per_token",
            "moe_topk",
            "num_selected_experts",
            "moe_k",
            "top_k",
        ),
        2,
    ),
    (("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"), 4),
    (("n_group", "topk_group", "n_shared_experts", "num_shared_experts"), 1),
    (("head_dim", "head_size", "attention_head_size", "d_kv", "dim_head"), 8),
    (("rotary_dim", "rope_dim"), 4),
    (("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "qk_head_dim"), 8),
    (("kv_lora_rank", "q_lora_rank", "laurel_rank"), 16),
    (("hidden_size_per_layer_input",), 8),
    (
        (
            "intermediate_size",
            "ffn_dim",
            "d_ff",
            "dff",
            "n_inner",
            "dim_ff",
            "inner_dim",
            "d_inner",
        ),
        64,
    ),
    (("feed_forward_size", "ffn_hidden_size", "expert_ffn_hidden_size", "mlp_dim"), 64),
    (("hidden_size", "d_model", "n_embd", "emb_dim", "embedding_size", "hidden_dim"), 32),
    (("word_embed_proj_dim", "lru_width", "dim", "width", "embed_dim", "projection_dim"), 32),
    (("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len", "position_size"), 128),
    (("max_sequence_length", "max_target_positions", "max_source_positions"), 128),
    (("sliding_window", "attention_window_size", "window_size", "attention_chunk_size"), 8),
    (("state_size", "mamba_d_state", "ssm_state_size", "conv_kernel"), 4),
    (("image_size",), 28),
    (("patch_size",), 14),
]


def small(default: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    """The fields of a config that make a small model, from those of the default one."""
    fields: dict[str, Any] = {}
    for name, value in default.items():
        if isinstance(value, dict) and name.endswith("_config") and value:
            fields[name] = small(value, changes)
            if "model_type" in value:
                fields[name]["model_type"] = value["model_type"]
        elif name.endswith("_token_id") and isinstance(value, int):
            fields[name] = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}.get(name, 3)
        elif isinstance(value, int) and not isinstance(value, bool):
            for ends, size in SIZES:
                if value > 0 and any(name == e or name.endswith(f"_{e}") for e in ends):
                    fields[name] = min(value, size) if size < 5 else size
                    break
    depth = next((fields[n] for n in ("num_hidden_layers", "n_layer") if n in fields), 2)
    for name, value in default.items():
        kinds = name.endswith(("layer_types", "layers_block_type", "block_types"))
        if kinds and isinstance(value, list) and value:
            different = list(dict.fromkeys(value))
            fields[name] = (different * depth)[: max(depth, len(different))]
            if "num_hidden_layers" in fields:
                fields["num_hidden_layers"] = len(fields[name])
    return fields | {name: value for name, value in changes.items() if name in default}


# what else is tried where the class does not take the first sizes
CHANGES: list[dict[str, Any]] = [
    {},
    {"num_key_value_heads": 4},
    {"head_dim": None},
    {"head_dim": 16},
    {"head_dim": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "partial_rotary_factor": 1.0},
    {"rotary_dim": 8},
    {"is_decoder": True},
    {"num_experts_per_tok": 1},
    {"layer_types": None, "num_hidden_layers": 2},
    {"layer_types": None, "num_hidden_layers": 4},
    {"hidden_size": 64, "num_attention_heads": 4, "head_dim": 16},
    {"mamba_n_heads": 8, "mamba_d_head": 8, "mamba_n_groups": 1, "mamba_expand": 2},
]


# what single types want beside their own defaults
OWN: dict[str, dict[str, Any]] = {
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "reformer": {
        "is_decoder": True,
        "attn_layers": ["local", "lsh"],
        "axial_pos_shape": [4, 4],
        "axial_pos_embds_dim": [16, 16],
        "local_attn_chunk_length": 4,
        "lsh_attn_chunk_length": 4,
    },
    "mamba2": {"hidden_size": 32, "expand": 2, "num_heads": 8, "head_dim": 8, "n_groups": 1},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gemma4_assistant": {"num_kv_shared_layers": 0},
    "longcat_flash": {"num_key_value_heads": 4},
    "deepseek_v2": {"num_key_value_heads": 4, "n_group": 1, "num_experts_per_tok": 2},
    "kimi_linear": {"num_key_value_heads": 4},
    "dots1": {"n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 1},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"], "num_hidden_layers": 2},
    "zamba": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
    },
    "zamba2": {
        "num_hidden_layers": 4,
        "layers_block_type": ["linear_attention", "hybrid"] * 2,
        "attention_head_dim": 16,
        "attention_hidden_size": 64,
        "n_mamba_heads": 8,
        "mamba_headdim": 8,
        "mamba_ngroups": 1,
        "mamba_expand": 2,
    },
    "xmod": {"default_language": "en_XX"},
    "nemotron_h": {"n_groups": 1, "mamba_num_heads": 8, "mamba_head_dim": 8},
    "bailing_hybrid": {"num_key_value_heads": 4, "n_group": 1, "group_norm_size": 1},
    "cohere_compass_text": {"layer_types": ["sliding_attention", "full_attention"]},
    "dots3_note_text": {"num_key_value_heads": 4, "swa_head_dim": 16, "head_dim": 16},
}


def build(kind: str) -> tuple[Any, str]:
    """A tiny model of a type, or None and why there is none."""
    from accelerate import init_empty_weights

    why = ""
    for changes in CHANGES:
        torch.manual_seed(0)
        try:
            config_class = CONFIG_MAPPING[kind]
            default = config_class()
            fields = small(default.to_dict(), changes) | OWN.get(kind, {})
            config = config_class(**fields)
            with init_empty_weights():
                empty = transformers.AutoModelForCausalLM.from_config(config)
            size = sum(p.numel() for p in empty.parameters())
            if size > LARGEST:
                raise ValueError(f"{size:,} parameters")
            model = transformers.AutoModelForCausalLM.from_config(config).eval()
            randomise(model)
            tokens = windows(2)
            first, second = losses(model, tokens[:1]), losses(model, tokens)
            if math.isfinite(first) and math.isfinite(second):
                return model, ""
            why = why or "no finite loss"
        except TimeoutError:
            raise
        except Exception as error:  # of the model's own code: any
            why = why or f"{type(error).__name__}: {str(error).splitlines()[:1]}"[:300]
    return None, why


@torch.no_grad()
def randomise(model: Any) -> None:
    """Weights that make an error in any of them visible in the loss."""
    for p in model.parameters():
        if p.ndim > 1 and p.is_floating_point():
            p.normal_(0.0, p.shape[-1] ** -0.5)
        elif p.is_floating_point():
            p.add_(0.1 * torch.randn_like(p))


def windows(count: int) -> Tensor:
    """Token ids, none of them special."""
    return torch.randint(4, VOCABULARY, (count, WINDOW), generator=torch.Generator().manual_seed(1))


@torch.no_grad()
def losses(model: Any, tokens: Tensor) -> float:
    """Mean negative log-likelihood by one plain forward pass."""
    logits = model(input_ids=tokens, use_cache=False).logits.float()
    return float(cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten()))


def plain(kind: Any, folder: Path, tokens: Tensor) -> tuple[Any, float]:
    """The folder's model by plain transformers, and its loss."""
    model, info = kind.from_pretrained(folder, output_loading_info=True)
    lost = {name: sorted(keys) for name, keys in info.items() if keys}
    assert not lost, f"transformers reads the folder with {lost}"
    for part in (model.config, model.config.get_text_config()):
        part._experts_implementation = "eager"
    return model.eval(), losses(model.eval(), tokens)


def tried(model: Any, scratch: Path) -> dict[str, Any]:
    """Prune one model; what came of it."""
    tokens, folder, out = windows(6), scratch / "dense", scratch / "sparse"
    model.save_pretrained(folder)
    try:
        record = steppe.prune(
            folder, steppe.methods.sparsegpt(sparsity=0.5), tokens, out, micro_batch=4
        )
        figures: dict[str, Any] = {"walk": record["walk"], "fallbacks": record["fallbacks"][:8]}
        for name, place in (("dense", folder), ("sparse", out)):
            read, expected = plain(type(model), place, tokens)
            walked = StreamedModel(str(place))
            got = streamed_perplexity(walked, tokens, scratch, 4)["loss"]
            figures[name] = {"plain": expected, "walk": got}
            assert abs(got - expected) <= CLOSE, f"{name}: {got} by the walk, {expected} plain"
        state = read.state_dict()
        names = [x["name"] for row in record["blocks"] for x in row["layers"]]
        zeros = sum(int((state[n] == 0).sum()) for n in names)
        figures["zeros"] = zeros / sum(state[n].numel() for n in names)
        assert abs(figures["zeros"] - 0.5) < 0.01, f"{figures['zeros']:.4f} zeros"
        return {"outcome": "pruned", "layers": len(names), **figures}
    except steppe.SteppeError as error:
        line = str(error).replace(str(scratch), "...")
    left = [p.name for p in out.iterdir()] if out.exists() else []
    assert not left, f"refused with {left} written: {line}"
    assert "\n" not in line, "a refusal is one line"
    return {"outcome": "refused", "line": line}


@contextlib.contextmanager
def limited(seconds: int) -> Iterator[None]:
    """A TimeoutError when it takes longer."""

    def end(*_: object) -> None:
        raise TimeoutError(f"more than {seconds} s")

    signal.signal(signal.SIGALRM, end)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)


def outcome(kind: str, seconds: int) -> dict[str, Any]:
    """One type, whatever happens."""
    began = time.perf_counter()
    row: dict[str, Any] = {"type": kind, "class": MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind]}
    try:
        with limited(seconds), tempfile.TemporaryDirectory() as scratch:
            model, why = build(kind)
            made = model is not None
            row |= tried(model, Path(scratch)) if made else {"outcome": "not built", "why": why}
    except Exception as error:  # a failure is what this looks for
        where = traceback.format_exc().strip().splitlines()[-8:]
        row |= {"outcome": "failed", "why": f"{type(error).__name__}: {error}"[:600]}
        row |= {"traceback": where}
    return row | {"seconds": round(time.perf_counter() - began, 1)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("types", nargs="*", help="only these")
    parser.add_argument("--log", type=Path, default=Path("runs/model-types.jsonl"))
    add_record(parser, "model-types")
    parser.add_argument("--seconds", type=int, default=120, help="for one type")
    parser.add_argument("--again", nargs="*", default=[], help="outcomes that are tried anew")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    arguments.log.parent.mkdir(parents=True, exist_ok=True)
    lines = arguments.log.read_text().splitlines() if arguments.log.exists() else []
    done = {row["type"]: row for row in map(json.loads, lines)}
    for kind in arguments.types or MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        if kind in done and done[kind]["outcome"] not in arguments.again and not arguments.types:
            continue
        row = done[kind] = outcome(kind, arguments.seconds)
        with arguments.log.open("a") as log:
            log.write(json.dumps(row) + "\n")
        print(kind, row["outcome"], row.get("why") or row.get("line") or "", flush=True)
    counts = Counter(row["outcome"] for row in done.values())
    ways = Counter(
        "streamed" if row["walk"]["streamed"] else "whole"
        for row in done.values()
        if row["outcome"] == "pruned"
    )
    print(dict(counts), dict(ways))
    kept = {
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "counts": dict(counts),
        "pruned": dict(ways),
        # tracebacks are in the log: they name this machine's folders
        "types": [
            {key: value for key, value in done[kind].items() if key != "traceback"}
            for kind in sorted(done)
        ],
    }
    write_record(arguments.record, kept)


if __name__ == "__main__":
    main()
