"""Adapters merged into a pruned model under its masks: W + m * (B A) * scaling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.errors import SteppeError
from steppe.core.layer import inputs_first, unwrap
from steppe.engine.mask_keeper import MaskKeeper, named_weights


@torch.no_grad()
def merge_lora(model: nn.Module, keeper: MaskKeeper | None = None) -> nn.Module:
    """Merge peft's adapters and keep every pruned weight zero: W + m * (B A) * scaling.

    W is zero wherever m is, so masking after peft's own merge is the same to the last bit; what
    else an adapter does to its layer (biases, saved modules) stays as peft does it.

    Unless the adapters were trained under the masks (`mask_adapters`), the merged model is not
    the one that was trained: their share at pruned entries is dropped.

    Args:
        model: peft's model around a pruned one.
        keeper: who knows the masks; left out, the zeros of the wrapped weights are kept.

    Returns:
        The model without adapters.

    Raises:
        SteppeError: there is no adapter, or it was merged before without masks.

    Example:
        >>> merge_lora(nn.Linear(2, 2))
        Traceback (most recent call last):
        ...
        steppe.core.errors.SteppeError: there must be adapters to merge; got Linear. Way out: ...
    """
    tuner = getattr(unwrap(model), "base_model", None)
    merge = getattr(type(tuner), "merge_and_unload", None)
    if tuner is None or merge is None:
        raise SteppeError(
            "there must be adapters to merge",
            got=type(unwrap(model)).__name__,
            way_out="give the model that peft.get_peft_model or PeftModel.from_pretrained returned",
        )
    merged = [name for name, m in tuner.named_modules() if getattr(m, "merged_adapters", None)]
    if merged:
        raise SteppeError(
            "adapters are merged once, under the masks",
            got=f"{merged[0]}, which is merged already",
            way_out="model.unmerge_adapter() first, or load the adapters anew",
        )
    keeper = keeper if keeper is not None else MaskKeeper(model)
    # the class' own: the one on the object may be guarded
    base: nn.Module = merge(tuner)
    # peft may have put new parameters in place of those that the keeper saw
    weights = named_weights(base)
    for name, mask in keeper.masks.items():
        weights[name].masked_fill_(~mask.to(weights[name].device), 0)
    keeper.weights = {name: weights[name] for name in keeper.masks}
    keeper.check()
    return base


def mask_adapters(model: nn.Module, keeper: MaskKeeper) -> list[str]:
    """Let adapters compute what will be merged: x (m * (B A) * scaling)' beside W.

    Without it, adapters learn to rely on entries that `merge_lora` drops. B A is made in every
    forward pass, which costs about as much as a product of that size with r inputs.

    Args:
        model: peft's model around a pruned one, not merged.
        keeper: who knows the masks.

    Returns:
        The names of the layers whose adapters are masked now.

    Raises:
        SteppeError: an adapter of a kept weight is no plain LoRA of a Linear or of transformers'
            Conv1D.
    """
    names = []
    for name, module in unwrap(model).named_modules():
        base = getattr(module, "base_layer", None)
        kept = isinstance(base, nn.Module) and any(
            keeper.mask_of(p) is not None for p in base.parameters(recurse=False)
        )
        if not kept:
            continue
        assert isinstance(base, nn.Module)
        known = isinstance(base, nn.Linear) or inputs_first(base)
        plain = known and hasattr(module, "get_delta_weight")
        if not plain or getattr(module, "lora_variant", None):
            raise SteppeError(
                "adapters are masked while they are trained when they are plain LoRA of a Linear",
                got=f"{_kind(module)} around {type(base).__name__} at {name}",
                way_out="plain LoRA (use_dora=False) of Linear layers; or leave mask_adapters out: "
                "merge_lora masks these too, but only at the end, so that their share at pruned "
                "entries is lost then",
            )
        object.__setattr__(module, "forward", _masked_forward(module, keeper))
        names.append(name)
    if not names:
        raise SteppeError(
            "there must be adapters of kept weights to mask",
            got=type(unwrap(model)).__name__,
            way_out="give the model that peft.get_peft_model returned, and its keeper",
        )
    return names


def _kind(module: nn.Module) -> str:
    variants = getattr(module, "lora_variant", None) or {}
    return ", ".join({type(v).__name__ for v in variants.values()}) or type(module).__name__


def _masked_forward(module: Any, keeper: MaskKeeper) -> Callable[..., Tensor]:
    turned = inputs_first(module.base_layer)

    def forward(x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        if "adapter_names" in kwargs:
            raise SteppeError(
                "masked adapters answer for whole batches",
                got="adapter_names",
                way_out="one adapter at a time, with set_adapter",
            )
        result: Tensor = module.base_layer(x, *args, **kwargs)
        if module.disable_adapters or module.merged:
            return result
        mask = keeper.mask_of(module.base_layer.weight)
        assert mask is not None, "it was kept when the adapters were masked"
        for adapter in module.active_adapters:
            if adapter in module.lora_A:
                delta = (module.get_delta_weight(adapter) * mask).to(x.dtype)
                delta = delta.mT if turned else delta
                bias = module.lora_B[adapter].bias
                bias = None if bias is None else bias * module.scaling[adapter]
                result = result + F.linear(module.lora_dropout[adapter](x), delta, bias)
        return result

    return forward
