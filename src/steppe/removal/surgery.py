"""Cut removed channels out of a model, its optimiser and its averages, in place."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.removal.mixtures import mixtures_of, update_sizes
from steppe.removal.tracing import shortcut_padding
from steppe.removal.transformer_config import update_attributes, update_config
from steppe.removal.transformer_patterns import sublayers_of

Stays = Mapping[str, Mapping[int, Tensor]]
"""Name of a tensor -> dimension -> positions that stay, ``[experts, positions]`` where each of
stacked experts has its own; see `steppe.core.group.positions`."""
Replaced = dict[str, tuple[nn.Parameter, nn.Parameter]]
"""Name -> the parameter before and the one that replaced it."""

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


def slice_tensor(tensor: Tensor, dims: Mapping[int, Tensor]) -> Tensor:
    """The positions of a tensor that stay, as a new one in the same memory format.

    Example:
        >>> slice_tensor(torch.arange(6).view(2, 3), {1: torch.tensor([0, 2])})
        tensor([[0, 2],
                [3, 5]])
    """
    channels_last = tensor.ndim == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    for dim, index in dims.items():
        index = index.to(tensor.device)
        if index.ndim == 2:  # each expert's own
            parts = zip(tensor, index, strict=True)
            tensor = torch.stack([part.index_select(dim - 1, own) for part, own in parts])
        else:
            tensor = tensor.index_select(dim, index)
    if channels_last:  # index_select forgets it, and the layer would convert at each call
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    return tensor.clone() if not dims else tensor


def slice_model(model: nn.Module, stays: Stays) -> Replaced:
    """Cut a model to what stays, and update the sizes in its modules and its config.

    Everything is checked and cut before the model is changed, so that an error leaves it as it
    was. Parameters are new objects: an optimiser needs `migrate`.

    Args:
        model: any module; wrappers are unwrapped.
        stays: see `steppe.core.group.positions`.

    Returns:
        The parameters that were replaced.

    Raises:
        SteppeError: the positions do not fit the model's tensors.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        >>> keep = torch.tensor([0, 2])
        >>> stays = {"0.weight": {0: keep}, "0.bias": {0: keep}, "1.weight": {1: keep}}
        >>> _ = slice_model(net, stays)
        >>> net
        Sequential(
          (0): Linear(in_features=3, out_features=2, bias=True)
          (1): Linear(in_features=2, out_features=2, bias=True)
        )
    """
    model = unwrap(model)
    _check(model, stays)
    sublayers, mixtures = list(sublayers_of(model)), list(mixtures_of(model))
    shortcuts = _shortcuts(model, stays)
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    new: dict[int, Tensor] = {}
    replaced: Replaced = {}
    for name, dims in stays.items():
        old = tensors[name]
        with torch.no_grad():
            tensor = slice_tensor(old, dims)
        if isinstance(old, nn.Parameter):
            parameter = nn.Parameter(tensor, old.requires_grad)
            parameter.grad = None if old.grad is None else slice_tensor(old.grad, dims)
            replaced[name], tensor = (old, parameter), parameter
        new[id(old)] = tensor
    for module in model.modules():
        _replace(module, new)
    for block, (front, back) in shortcuts.items():
        model.get_submodule(block).front = front  # type: ignore[assignment]
        model.get_submodule(block).back = back  # type: ignore[assignment]
    update_attributes(sublayers)
    update_sizes(mixtures)
    update_config(model)
    return replaced


def _replace(module: nn.Module, new: Mapping[int, Tensor]) -> None:
    touched = False
    for store in (module._parameters, module._buffers):
        for name, tensor in store.items():
            if tensor is not None and id(tensor) in new:
                store[name] = new[id(tensor)]  # type: ignore[assignment]
                touched = True
    if touched:
        for applies, update in SIZE_UPDATES:
            if applies(module):
                update(module)


def _update_linear(module: Any) -> None:
    module.out_features, module.in_features = module.weight.shape


def _update_conv(module: Any) -> None:
    rows, columns = module.weight.shape[:2]
    if module.groups > 1 and columns == 1 and module.in_channels == module.groups:
        module.groups = rows // (module.out_channels // module.groups)
    module.out_channels, module.in_channels = rows, columns * module.groups


def _update_transposed(module: Any) -> None:
    rows, columns = module.weight.shape[:2]
    if module.groups > 1 and columns == 1 and module.in_channels == module.groups:
        module.groups = rows
    module.in_channels, module.out_channels = rows, columns * module.groups


def _update_norm(module: Any) -> None:
    per_channel = module.weight if module.weight is not None else module.running_mean
    if per_channel is not None:
        module.num_features = len(per_channel)


def _update_conv1d(module: Any) -> None:
    module.nf = module.weight.shape[1]
    if hasattr(module, "nx"):
        module.nx = module.weight.shape[0]


def _update_prelu(module: Any) -> None:
    module.num_parameters = len(module.weight)


def _update_embedding(module: Any) -> None:
    module.num_embeddings, module.embedding_dim = module.weight.shape


def _update_recurrent(module: Any) -> None:
    module.input_size, module.hidden_size = (
        module.weight_ih_l0.shape[1],
        module.weight_hh_l0.shape[1],
    )
    module._flat_weights = [getattr(module, name, None) for name in module._flat_weights_names]


def _update_cell(module: Any) -> None:
    module.input_size, module.hidden_size = module.weight_ih.shape[1], module.weight_hh.shape[1]


def _is(*kinds: type[nn.Module]) -> Callable[[nn.Module], bool]:
    return lambda module: isinstance(module, kinds)


SIZE_UPDATES: list[tuple[Callable[[nn.Module], bool], Callable[[Any], None]]] = [
    (_is(nn.Linear), _update_linear),
    (_is(*_CONVS), _update_conv),
    (_is(*_TRANSPOSED), _update_transposed),
    (_is(_NormBase), _update_norm),
    (_is(nn.PReLU), _update_prelu),
    (_is(nn.Embedding, nn.EmbeddingBag), _update_embedding),
    (_is(nn.RNNBase), _update_recurrent),
    (_is(nn.RNNCellBase), _update_cell),
    (lambda module: hasattr(module, "nf") and hasattr(module, "weight"), _update_conv1d),
]
"""(whether it is for a module, how to set the module's sizes from its weights)."""


def _shortcuts(model: nn.Module, stays: Stays) -> dict[str, tuple[int, int]]:
    """Zeros that blocks put around their shortcuts: as many as channels stay there."""
    paddings: dict[str, tuple[int, int]] = {}
    for name, block in model.named_modules():
        last = f"{name}.conv2.weight" if name else "conv2.weight"
        zeros = shortcut_padding(block)
        if zeros is not None and 0 in stays.get(last, {}):
            kept, (front, back) = stays[last][0], zeros
            size = block.get_parameter("conv2.weight").shape[0]
            paddings[name] = (int((kept < front).sum()), int((kept >= size - back).sum()))
    return paddings


def _check(model: nn.Module, stays: Stays) -> None:
    tensors = dict([*model.named_parameters(), *model.named_buffers()])
    for name, dims in stays.items():
        if name not in tensors:
            raise _misfit(f"{name}, which the model does not have")
        shape = tensors[name].shape
        for dim, index in dims.items():
            if not 0 <= dim < len(shape):
                raise _misfit(f"dimension {dim} of {name}, which is {tuple(shape)}")
            ascending = bool((index[..., 1:] > index[..., :-1]).all())
            fits = index.ndim == 1 or (dim > 0 and len(index) == shape[0])
            inside = index.numel() > 0 and 0 <= index.min() and index.max() < shape[dim]
            if not (ascending and fits and inside):
                raise _misfit(
                    f"{index.numel()} positions of {shape[dim]} in dimension {dim} of {name}"
                )
    for name, module in model.named_modules():
        if isinstance(module, _CONVS) and module.groups > 1 and module.weight.shape[1] > 1:
            rows = stays.get(f"{name}.weight", {}).get(0)
            if rows is not None and len(rows) % module.groups:
                raise _misfit(f"{len(rows)} channels in {module.groups} groups of {name}")


def _misfit(got: str) -> SteppeError:
    return SteppeError(
        "what stays must be positions of the model's own tensors, at least one in each, ascending",
        got=got,
        consequence="nothing was changed",
        way_out="take the model that the groups or the plan were made of",
    )


def slice_tensors(tensors: Mapping[str, Tensor], stays: Stays) -> dict[str, Tensor]:
    """Cut named tensors of a model's shapes: an average of its weights, masks, gradients.

    Names may carry the prefix of a wrapper (``module.``).

    Example:
        >>> slice_tensors({"module.a": torch.arange(3)}, {"a": {0: torch.tensor([2])}})
        {'module.a': tensor([2])}
    """
    plain = {name: name.removeprefix("module.").removeprefix("_orig_mod.") for name in tensors}
    return {
        name: slice_tensor(tensor, stays[plain[name]]) if plain[name] in stays else tensor
        for name, tensor in tensors.items()
    }


def migrate(optimizer: torch.optim.Optimizer, replaced: Replaced, stays: Stays) -> None:
    """Let an optimiser go on with the parameters that replaced its own.

    Its parameter groups get the new parameters; state of a parameter's shape (momentum, Adam's
    averages) is cut like it, numbers such as the step stay.

    Args:
        optimizer: of the model before `slice_model`.
        replaced: what `slice_model` returned.
        stays: what it was given.

    Raises:
        SteppeError: the optimiser holds none of them, or state whose shape is not known; it is
            then left as it was.
    """
    states = slice_states(optimizer, {name: old for name, (old, _) in replaced.items()}, stays)
    new_of = {id(old): new for old, new in replaced.values()}
    for name, state in states.items():
        old, new = replaced[name]
        del optimizer.state[old]
        optimizer.state[new] = state
    for group in optimizer.param_groups:
        group["params"] = [new_of.get(id(p), p) for p in group["params"]]


def slice_states(
    optimizer: torch.optim.Optimizer, named: Mapping[str, Tensor], stays: Stays
) -> dict[str, dict[str, Any]]:
    """The cut state of the named parameters; the optimiser itself is not changed.

    Raises:
        SteppeError: see `migrate`.
    """
    names = {id(parameter): name for name, parameter in named.items()}
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    if names and not any(id(p) in names for p in parameters):
        raise SteppeError(
            "an optimiser must hold the parameters of the model before removal",
            got=f"{type(optimizer).__name__} with none of them",
            consequence="training would go on with weights that are no longer in the model",
            way_out="give the optimiser that trained this model",
        )
    states: dict[str, dict[str, Any]] = {}
    for old in parameters:
        if id(old) in names and old in optimizer.state:
            name = names[id(old)]
            states[name] = {
                key: _slice_state(f"{key} of {name}", value, old, stays.get(name, {}))
                for key, value in optimizer.state[old].items()
            }
    return states


def _slice_state(what: str, value: Any, old: Tensor, dims: Mapping[int, Tensor]) -> Any:
    if not isinstance(value, Tensor) or value.numel() <= 1:
        return value
    if value.shape == old.shape:
        return slice_tensor(value, dims)
    if not dims:
        return value
    raise SteppeError(
        "an optimiser's state must be of its parameter's shape to be cut with it",
        got=f"{what}: {tuple(value.shape)} beside {tuple(old.shape)}",
        way_out="start a new optimiser after removal",
    )
