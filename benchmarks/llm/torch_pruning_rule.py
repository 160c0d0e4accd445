"""Torch-Pruning's example for language models: hidden width, heads and neurons by weight norms.

    python benchmarks/llm/torch_pruning_rule.py MODEL --calibration FILE --evaluate FILE \\
        --window 256 --removed 0.25 0.5 [--record FILE]

The package itself does it (``pip install torch-pruning``, in steppe's extra ``dev``), as a peer for
`steppe prune --method slim`. It looks at no text: ``--calibration`` and ``--seed`` change nothing.

Read in its examples/LLMs/prune_llm.py: one ratio for the hidden width, whole heads and neurons;
units ranked by the mean L2 norm of all weights that are coupled to them, each width by itself; the
head of the model is never where a width is chosen; widths are multiples of 4. The ratio here is the
one that comes nearest to the share of the blocks' parameters that is asked for. As blocks shrink on
both sides, it is smaller than that share; embedding and head shrink too.

Different: the model's logits are traced, since what it returns besides (its cache) has no gradient.
While it is traced, rotary embeddings do not swap the halves of a head: torch-pruning 1.6 with torch
2.13 follows that in circles without end. Heads go whole, so that the same is coupled.
"""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any
from unittest import mock

import torch
from rule_command import blocks_of, command, parameters_of
from torch import Tensor, nn

STEPS = 8  # of bisection, for the ratio to 0.004: as much as one of 256


def torch_pruning(model: Any, windows: Tensor, removed: float) -> dict[str, Any]:
    """Prune in place.

    Args:
        model: of the LLaMA kind (self_attn.q_proj, k_proj, v_proj), in float32.
        windows: token ids ``[windows, tokens]``; the first tells what is coupled.
        removed: share of the blocks' parameters that goes.
    """
    tokens = windows[:1, :4]
    low, high, gone = 0.0, 1.0, {0.0: 0.0}
    for _ in range(STEPS):
        ratio = (low + high) / 2
        gone[ratio] = _pruned(copy.deepcopy(model), tokens, ratio)
        low, high = (ratio, high) if gone[ratio] < removed else (low, ratio)
    ratio = min(gone, key=lambda r: abs(gone[r] - removed))
    reached = _pruned(model, tokens, ratio)
    model.tie_weights()  # head and embedding lost the same columns
    block = blocks_of(model)[0]
    return {
        "parameters": parameters_of(model),
        "removed_of_blocks": reached,
        "ratio": ratio,
        "hidden": block.self_attn.q_proj.in_features,
        "heads": block.self_attn.q_proj.out_features // block.self_attn.head_dim,
        "neurons": block.mlp.down_proj.in_features,
    }


def _pruned(model: Any, tokens: Tensor, ratio: float) -> float:
    """The share of the blocks' parameters that is gone."""
    try:
        import torch_pruning as tp
    except ImportError:
        raise SystemExit("torch-pruning is not there: pip install torch-pruning") from None
    before, config = parameters_of(blocks_of(model)), model.config
    heads: dict[nn.Module, int] = {}
    for block in blocks_of(model):
        heads[block.self_attn.q_proj] = config.num_attention_heads
        heads[block.self_attn.k_proj] = config.num_key_value_heads
        heads[block.self_attn.v_proj] = config.num_key_value_heads
    family = sys.modules[type(model).__module__]
    straight = mock.patch.object(family, "rotate_half", torch.neg)
    with warnings.catch_warnings(), torch.enable_grad(), straight:
        warnings.simplefilter("ignore")  # that it prunes the weights of norms, as it should
        pruner = tp.pruner.MetaPruner(
            model,
            example_inputs=tokens,
            importance=tp.importance.GroupMagnitudeImportance(p=2, group_reduction="mean"),
            pruning_ratio=ratio,
            head_pruning_ratio=ratio,
            num_heads=heads,
            prune_num_heads=True,
            prune_head_dims=False,
            round_to=4,
            ignored_layers=[model.lm_head],
            output_transform=lambda output: output.logits,
        )
        for group in pruner.step(interactive=True):
            group.prune()
    for block in blocks_of(model):
        own = block.self_attn
        own.num_key_value_groups = own.q_proj.out_features // own.k_proj.out_features
    return 1 - parameters_of(blocks_of(model)) / before


if __name__ == "__main__":
    command("torch_pruning", torch_pruning, __doc__)
