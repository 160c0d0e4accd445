"""2SSP: neurons go by the norm of their activation, then whole attentions by perplexity.

    python benchmarks/llm/two_ssp_rule.py MODEL --calibration FILE --evaluate FILE --window 256 \\
        --removed 0.25 0.5 [--record FILE]

Written from the paper (Sandri et al., arXiv 2501.17771) and from reading its code, in plain torch
on a model in memory: no config of transformers says that a block has no attention, so this is no
method of `steppe prune`. Its first stage alone is `--structure neurons` with the score
activation_norm.

Read there, s the share of the blocks' parameters that goes and N the number of blocks:
round(N s^(|mlp| / |attention| / 1.5)) attentions go, and so many neurons in every block that the
share is met. Neurons: the mean over windows of the L2 norm over tokens of what the down projection
reads. Attentions: each time the one without which the perplexity on one window is lowest.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from rule_command import blocks_of, command, parameters_of
from torch import Tensor, nn

ALPHA = 1.5
"""How the two stages share what goes; the authors'."""


class NoAttention(nn.Module):
    """Adds nothing to the residual stream."""

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        return torch.zeros_like(hidden_states), None


@torch.no_grad()
def two_ssp(model: Any, windows: Tensor, removed: float) -> dict[str, Any]:
    """Cut neurons and attentions, in place.

    Args:
        model: of the LLaMA kind (self_attn, mlp.gate_proj, up_proj, down_proj), in float32.
        windows: token ids ``[windows, tokens]``; attentions are tried on the first.
        removed: share of the blocks' parameters that goes.
    """
    blocks = blocks_of(model)
    count, whole = len(blocks), parameters_of(blocks)
    attention, mlp = parameters_of(blocks[0].self_attn), parameters_of(blocks[0].mlp)
    without = round(count * removed ** (mlp / attention / ALPHA))
    share = round((round(removed * whole) - without * attention) / count) / mlp
    assert 0.0 <= share < 1.0, f"{without} attentions and the neurons cannot meet {removed}"
    norms = _norms(model, windows)
    neurons = round(len(norms[0]) * (1.0 - share))
    for block, norm in zip(blocks, norms, strict=True):
        _keep(block.mlp, norm.topk(neurons).indices.sort().values)
    gone = [_worst(model, windows[:1]) for _ in range(without)]
    return {
        "parameters": parameters_of(model),
        "removed_of_blocks": 1.0 - parameters_of(blocks) / whole,
        "neurons": neurons,
        "attentions_gone": gone,
    }


def _norms(model: Any, windows: Tensor) -> list[Tensor]:
    """Of each block the mean over windows of ||a_j||_2, a what the down projection reads."""
    layers = [block.mlp.down_proj for block in blocks_of(model)]
    sums = {layer: torch.zeros(layer.in_features, device=model.device) for layer in layers}

    def see(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        sums[layer] += torch.linalg.vector_norm(inputs[0][0].float(), dim=0)

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    for window in windows:
        model(window[None].to(model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    return [sums[layer] / len(windows) for layer in layers]


def _keep(mlp: Any, index: Tensor) -> None:
    """Only some of the neurons of a feed-forward part."""
    for layer, dim in ((mlp.gate_proj, 0), (mlp.up_proj, 0), (mlp.down_proj, 1)):
        layer.weight = nn.Parameter(layer.weight.index_select(dim, index))
        if layer.bias is not None and dim == 0:
            layer.bias = nn.Parameter(layer.bias[index])


def _worst(model: Any, window: Tensor) -> int:
    """Take the attention out that the model misses least; the number of its block."""
    blocks, found = blocks_of(model), {}
    for number, block in enumerate(blocks):
        own = block.self_attn
        if isinstance(own, NoAttention):
            continue
        block.self_attn = NoAttention()
        found[number] = _perplexity(model, window)
        block.self_attn = own
    worst = min(found, key=found.__getitem__)
    blocks[worst].self_attn = NoAttention()
    return worst


def _perplexity(model: Any, window: Tensor) -> float:
    ids = window.to(model.device)
    logits = model(ids, use_cache=False).logits[:, :-1].float()
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())
    return math.exp(float(loss))


if __name__ == "__main__":
    command("two_ssp", two_ssp, __doc__)
