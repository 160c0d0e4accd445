"""FLAP as its authors prune: units of all layers ranked together, means left to biases.

    python benchmarks/llm/flap_rule.py MODEL --calibration FILE --evaluate FILE --window 256 \\
        --removed 0.25 0.5 [--record FILE]

Written from the paper (An et al., arXiv 2312.11983) and from reading its code, in plain torch and
without steppe's walk, as a peer for `steppe prune --method flap`. Units are zeroed, not cut: layers
end with different widths, which no config of transformers says. The parameters that are told are
those that a cut model would have, biases included.

Read there: the saliency of an input (WIFV), var(x_j) sum_i w_ij^2, of the dense model; each layer's
saliencies standardised to mean 0 and deviation 1; of a head the mean over its columns; all ranked
together, a head counting as many times as it has more parameters than a neuron (their 512 / 3);
the bias of the projection is W_gone E[x_gone].

Different: their running variance leaves the first window out; here it is of all tokens.
"""

from __future__ import annotations

from typing import Any

import torch
from rule_command import blocks_of, command, parameters_of
from torch import Tensor, nn


@torch.no_grad()
def flap(model: Any, windows: Tensor, removed: float) -> dict[str, Any]:
    """Zero the units that fluctuate least, in place.

    Args:
        model: of the LLaMA kind (self_attn.o_proj, mlp.down_proj), in float32.
        windows: token ids ``[windows, tokens]``.
        removed: share of what neurons and heads hold that goes.
    """
    blocks = blocks_of(model)
    outs = [(b.self_attn.o_proj, b.mlp.down_proj) for b in blocks]
    seen = _moments(model, [layer for pair in outs for layer in pair], windows)
    group = _group(model)
    heads, neurons = (_standard([_wifv(p[k], seen) for p in outs]) for k in (0, 1))
    heads = heads.view(len(blocks), -1, group).mean(2)
    first = blocks[0]
    of_head = (parameters_of(first.self_attn) - _norms(first.self_attn)) // heads.shape[1]
    of_neuron = parameters_of(first.mlp) // neurons.shape[1]
    every = torch.cat([heads.flatten(), neurons.flatten()])
    weights = torch.full_like(every, of_neuron, dtype=torch.float64)
    weights[: heads.numel()] = of_head
    order = every.argsort(descending=True)
    kept = weights[order].cumsum(0)
    threshold = every[order[(kept - kept[-1] * (1.0 - removed)).abs().argmin()]]
    gone = lost = 0
    for index, (attention, mlp) in enumerate(outs):
        keep_heads, keep_neurons = heads[index] > threshold, neurons[index] > threshold
        gone += int((~keep_heads).sum()) * of_head + int((~keep_neurons).sum()) * of_neuron
        lost += _cut(attention, keep_heads.repeat_interleave(group), seen)
        lost += _cut(mlp, keep_neurons, seen)
    blocks_before = sum(map(parameters_of, blocks)) - lost
    return {
        "parameters": parameters_of(model) - gone,
        "removed_of_blocks": (gone - lost) / blocks_before,
        "heads": (heads > threshold).sum(1).tolist(),
        "neurons": (neurons > threshold).sum(1).tolist(),
    }


def _group(model: Any) -> int:
    """Columns of the output projection that belong to one key head."""
    config, o = model.config, blocks_of(model)[0].self_attn.o_proj
    keys = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return int(o.in_features // keys)


def _norms(attention: nn.Module) -> int:
    return sum(p.numel() for p in attention.parameters() if p.ndim == 1)


def _moments(
    model: Any, layers: list[nn.Linear], windows: Tensor
) -> dict[nn.Linear, tuple[Tensor, Tensor]]:
    """Layer -> mean and variance of its inputs, in the dense model."""
    sums = {layer: torch.zeros(2, layer.in_features, dtype=torch.float64) for layer in layers}

    def see(layer: Any, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten(0, -2).double()
        sums[layer] += torch.stack([x.sum(0), x.square().sum(0)]).cpu()

    hooks = [layer.register_forward_pre_hook(see) for layer in layers]
    for window in windows:
        model(window[None].to(model.device), use_cache=False)
    for hook in hooks:
        hook.remove()
    means = {layer: s / windows.numel() for layer, s in sums.items()}
    return {layer: (m[0], (m[1] - m[0].square()).clamp_min(0)) for layer, m in means.items()}


def _wifv(layer: nn.Linear, seen: dict[nn.Linear, tuple[Tensor, Tensor]]) -> Tensor:
    return seen[layer][1] * layer.weight.double().square().sum(0).cpu()


def _standard(saliencies: list[Tensor]) -> Tensor:
    stacked = torch.stack(saliencies)
    return (stacked - stacked.mean(1, keepdim=True)) / stacked.std(1, keepdim=True)


def _cut(layer: nn.Linear, keep: Tensor, seen: dict[nn.Linear, tuple[Tensor, Tensor]]) -> int:
    """Zero columns, and give their mean to the bias; how many parameters it gained by that."""
    gone = (~keep).to(layer.weight.device)
    mean = seen[layer][0].to(layer.weight)
    shift = layer.weight @ (mean * gone)
    layer.weight.masked_fill_(gone, 0.0)
    if layer.bias is not None:
        layer.bias += shift
        return 0
    layer.bias = nn.Parameter(shift)
    return shift.numel()


if __name__ == "__main__":
    command("flap", flap, __doc__)
