"""Adapters merged into a pruned model under its masks: W + m * (B A) * scaling."""

from __future__ import annotations

import torch
from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.llm.finetune import MaskKeeper, named_weights


@torch.no_grad()
def merge_lora(model: nn.Module, keeper: MaskKeeper | None = None) -> nn.Module:
    """Merge peft's adapters and keep every pruned weight zero: W + m * (B A) * scaling.

    W is zero wherever m is, so masking after peft's own merge is the same to the last bit; what
    else an adapter does to its layer (biases, saved modules) stays as peft does it.

    The merged model is not quite the one that was trained: the adapters' share at pruned entries
    is dropped. Measure it again after merging.

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
    held = named_weights(base)
    for name, mask in keeper.masks.items():
        held[name].masked_fill_(~mask.to(held[name].device), 0)
    keeper.weights = {name: held[name] for name in keeper.masks}
    keeper.check()
    return base
