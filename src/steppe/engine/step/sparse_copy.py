"""The prunable weights in a copy of a model: averaged, wrapped, put together from parts or not."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from steppe.core.derived import OfSparsify
from steppe.core.errors import SteppeError
from steppe.core.protocols import Tensors


def weights_in_copy(copy: nn.Module, masks: Mapping[str, Tensor]) -> Tensors:
    """Name in the model -> the copy's own weight, detached; parts are folded into plain weights.

    Args:
        copy: the model, or any module that holds it: AveragedModel, DistributedDataParallel, ...
        masks: name -> a tensor of the weight's shape.

    Raises:
        SteppeError: the copy has not these weights.

    Example:
        >>> model = nn.Linear(3, 2)
        >>> copy = torch.optim.swa_utils.AveragedModel(model)
        >>> weights_in_copy(copy, {"weight": torch.ones(2, 3)})["weight"].shape
        torch.Size([2, 3])
    """
    model = _inside(copy, masks)
    weights: Tensors = {}
    for name, mask in masks.items():
        path, _, tensor = name.rpartition(".")
        module = model.get_submodule(path)
        if parametrize.is_parametrized(module, tensor):
            unparametrize(module, tensor)
        weight = getattr(module, tensor)
        if weight.shape != mask.shape:
            raise SteppeError(
                "zeros are put into a copy of the model",
                got=f"{name} of shape {tuple(weight.shape)}, where the model has "
                f"{tuple(mask.shape)}",
                way_out="copy.deepcopy(model), or AveragedModel(model)",
            )
        weights[name] = weight.detach()
    return weights


def _inside(copy: nn.Module, masks: Mapping[str, Tensor]) -> nn.Module:
    """The outermost module of the copy that has weights of all these names."""
    if not isinstance(copy, nn.Module):
        raise SteppeError(
            "zeros are put into a copy of the model",
            got=f"a {type(copy).__name__}",
            way_out="the module that holds it; steppe.core.mask.apply_masks(tensors, done.masks) "
            "for tensors by name",
        )
    for _, module in copy.named_modules():
        if all(_has(module, name) for name in masks):
            assert isinstance(module, nn.Module)
            return module
    missing = next(name for name in masks if not _has(copy, name))
    raise SteppeError(
        "zeros are put into a copy of the model",
        got=f"{type(copy).__name__}, which has no {missing}",
        way_out="copy.deepcopy(model), or AveragedModel(model)",
    )


def _has(module: nn.Module, name: str) -> bool:
    path, _, tensor = name.rpartition(".")
    for part in path.split(".") if path else ():
        inner = module._modules.get(part)
        if inner is None:
            return False
        module = inner
    return tensor in module._parameters or _of_sparsify(module, tensor)


def _of_sparsify(module: nn.Module, tensor: str) -> bool:
    if not parametrize.is_parametrized(module, tensor):
        return False
    makers: Any = module.parametrizations
    return any(isinstance(maker, OfSparsify) for maker in makers[tensor])


def unparametrize(module: nn.Module, tensor: str) -> nn.Parameter:
    """The plain weight again, of the value that its parts stand for."""
    shared = type(module)
    # a class of its own: torch shares it with deep copies, and takes the weight out of it
    body = {k: v for k, v in vars(shared).items() if k not in ("__dict__", "__weakref__")}
    module.__class__ = type(shared.__name__, shared.__bases__, body)
    with torch.enable_grad():  # else it makes a buffer of it
        parametrize.remove_parametrizations(module, tensor)
    weight = getattr(module, tensor)
    assert isinstance(weight, nn.Parameter)
    # recurrent layers keep a list of their weights besides, and renew it when one is set
    setattr(module, tensor, weight)
    return weight
