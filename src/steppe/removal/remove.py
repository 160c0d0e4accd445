"""Remove the channels, heads and neurons that are zero, and prove that nothing else changed."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group, positions
from steppe.core.layer import unwrap
from steppe.removal.channel_groups import coupled_channels
from steppe.removal.forward import call, tensors_of, to_device, untouched
from steppe.removal.plan import Plan
from steppe.removal.surgery import Stays, migrate, slice_model, slice_states, slice_tensors
from steppe.removal.transformer_config import update_config

TOLERANCE = 1e-5


class NotTheSame(SteppeError, AssertionError):
    """The network computes something else after removal than before."""


@dataclass(frozen=True, eq=False)
class Removed:
    """What `remove` did.

    Args:
        model: without the channels.
        plan: what stays; cuts a fresh model alike.
        report: plain values: ``removed`` (group -> units), ``units`` (group -> units before),
            ``rounded`` (group -> zero units kept for the group's multiple), ``parameters``
            (before, after), ``error`` (relative, of the outputs; None without verification),
            ``left_out`` (weight -> why its channels must stay),
            ``plain`` ("" when plain ``from_pretrained`` loads it, else why not).
        ema: the averages that were given, cut.
    """

    model: nn.Module
    plan: Plan
    report: dict[str, Any]
    ema: dict[str, Tensor] | None = None


def remove(
    model: nn.Module,
    example_inputs: Any = None,
    *,
    groups: Sequence[Group] | None = None,
    masks: Mapping[str, Tensor] | None = None,
    optimizer: torch.optim.Optimizer | None = None,
    ema: Mapping[str, Tensor] | None = None,
    inplace: bool = False,
    verify: bool = True,
    exclude: Sequence[str] = (),
) -> Removed:
    """Cut out every unit that is zero.

    A unit is zero when all weights that compute it are (their rows, biases, scales and shifts of
    its norms), or all weights that read it. A model without such units comes back whole, with a
    warning.

    Args:
        model: with zeros in it.
        example_inputs: one batch, see `channel_groups`; transformers need none.
        groups: of the model; found when not given.
        masks: name -> True where a weight stays; the weights are multiplied by them first.
        optimizer: of the model; goes on with what stays, see `migrate`.
        ema: named tensors of the model's shapes, to be cut alike.
        inplace: cut this model; else a copy.
        verify: compare outputs with those before, in float32 and evaluation mode.
        exclude: patterns of what stays whole, see `channel_groups`; not together with ``groups``.

    Returns:
        The smaller model, the plan and a report.

    Raises:
        NotTheSame: the outputs differ by more than 1e-5 of their largest; nothing was changed.
        SteppeError: see `channel_groups`, `slice_model` and `migrate`.

    Example:
        >>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
        >>> _ = net[2].weight.data[:, 1:3].zero_()
        >>> done = remove(net, torch.zeros(1, 3))
        >>> done.model[0], done.report["removed"]
        (Linear(in_features=3, out_features=2, bias=True), {'0.weight': 2})
    """
    inner = unwrap(model)
    left_out: dict[str, str] = {}
    if groups is None:
        coupled = coupled_channels(inner, example_inputs, exclude=exclude)
        groups, left_out = coupled.groups, coupled.left_out
    elif exclude:
        raise SteppeError(
            "patterns choose among groups that are found here",
            got="both groups and exclude",
            way_out="give exclude to steppe.channel_groups",
        )
    before = sum(p.numel() for p in inner.parameters())
    tensors = _masked(inner, masks)
    _check(groups, tensors)
    decisions = {group.name: units_to_keep(group, tensors) for group in groups}
    kept = {name: alive for name, (alive, _) in decisions.items()}
    stays = positions(groups, kept, {name: t.shape for name, t in tensors.items()})
    removed = {name: int((~alive).sum()) for name, alive in kept.items() if not alive.all()}
    rounded = {name: spared for name, (_, spared) in decisions.items() if spared}
    _warn(removed, len(groups))
    plan = Plan.of(inner, stays, removed=removed)
    own = dict(inner.named_parameters())
    if optimizer is not None:
        slice_states(optimizer, own, stays)  # raises before anything is cut
    smaller, error = None, None
    if verify or not inplace:
        smaller, error = _smaller_copy(inner, tensors, stays, example_inputs, verify)
    if inplace or smaller is None:
        _load(inner, tensors)
        replaced, result = slice_model(inner, stays), model
    else:
        new, result = dict(smaller.named_parameters()), smaller
        replaced = {name: (own[name], new[name]) for name in own}
    if optimizer is not None and replaced:
        migrate(optimizer, replaced, stays)
    report = {
        "removed": removed,
        "units": {group.name: group.units for group in groups},
        "rounded": rounded,
        "parameters": (before, sum(p.numel() for p in unwrap(result).parameters())),
        "error": error,
        "left_out": left_out,
        "plain": update_config(unwrap(result)),
    }
    averages = None if ema is None else slice_tensors(ema, stays)
    return Removed(result, plan, report, averages)


def _warn(removed: Mapping[str, int], groups: int) -> None:
    if not removed:
        warnings.warn(
            f"nothing to remove: in none of {groups} groups is a channel zero in all layers that "
            "it is coupled with; prune with structure channel first",
            stacklevel=3,
        )


def _check(groups: Sequence[Group], tensors: Mapping[str, Tensor]) -> None:
    for group in groups:
        for s in group.slices:
            tensor = tensors.get(s.name)
            if tensor is None or tensor.ndim <= s.dim or int(s.index.max()) >= tensor.shape[s.dim]:
                raise SteppeError(
                    "groups of channels belong to one model",
                    got=f"{s.name}, of other groups than this model's",
                    way_out="steppe.channel_groups of this model, or leave groups out",
                )


def _smaller_copy(
    model: nn.Module,
    tensors: Mapping[str, Tensor],
    stays: Stays,
    example_inputs: Any,
    verify: bool,
) -> tuple[nn.Module, float | None]:
    """A copy that is cut, and by how much its outputs differ."""
    smaller = deepcopy(model)
    _load(smaller, tensors)
    before = deepcopy(smaller) if verify else None
    slice_model(smaller, stays)
    return smaller, None if before is None else _verify(before, smaller, example_inputs)


def _masked(model: nn.Module, masks: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
    """All tensors of a model, weights under their masks."""
    tensors = {
        name: tensor.detach()
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]
    }
    for name, mask in (masks or {}).items():
        if name not in tensors or tensors[name].shape != mask.shape:
            raise SteppeError(
                "a mask must have the name and the shape of a parameter",
                got=f"{name}: {tuple(mask.shape)}",
                way_out="take the masks of this model",
            )
        tensors[name] = tensors[name] * mask.to(tensors[name].device)
    return tensors


def _load(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.data_ptr() != tensors[name].data_ptr():
                parameter.copy_(tensors[name])


def units_to_keep(group: Group, tensors: Mapping[str, Tensor]) -> tuple[Tensor, int]:
    """Which units of a group stay, and how many zero ones among them.

    Args:
        group: its multiple and its least number are kept to.
        tensors: name -> weight.

    Returns:
        ``[units]`` booleans, and the number of units that are zero and kept only for the multiple,
        the lowest first.
    """
    dead = _zero(group, tensors, ("input",))
    if not _norms_without_scale(group):
        dead |= _zero(group, tensors, ("output", "bias", "norm"))
    alive = ~dead
    count = int(alive.sum())
    wanted = max(group.least, -(-count // group.multiple) * group.multiple)
    spare = min(wanted, group.units) - count
    alive[dead.nonzero().flatten()[:spare]] = True
    return alive, spare


def _zero(group: Group, tensors: Mapping[str, Tensor], roles: tuple[str, ...]) -> Tensor:
    if not any(s.role in roles for s in group.slices):
        return torch.zeros(group.units, dtype=torch.bool)
    return (group.members(tensors, roles) == 0).all(dim=1).cpu()


def _norms_without_scale(group: Group) -> bool:
    """A norm that has statistics but no scale gives zero rows another value than zero."""
    norms = {s.name.rpartition(".")[0] for s in group.slices if s.role == "buffer"}
    return not norms <= {s.name.rpartition(".")[0] for s in group.slices if s.role == "norm"}


def _verify(before: nn.Module, after: nn.Module, example_inputs: Any) -> float:
    """The largest difference of the outputs, relative to the largest output."""
    inputs = example_of(before) if example_inputs is None else example_inputs
    inputs = _noisy(inputs)
    error = 0.0
    # sums in another order differ a little in float32: what is wrong is so in float64 too
    for dtype in (torch.float32, torch.float64):
        expected = _outputs(before, inputs, dtype)
        try:
            got = _outputs(after, inputs, dtype)
        except SteppeError as failed:
            raise NotTheSame(
                "a network must run after its zero units are gone",
                got=str(failed.got),
                consequence="nothing was changed",
                way_out="where forward() has a size of channels written in it, let it read "
                "x.shape, or exclude the layers there",
            ) from failed
        error = max(_distance(a, b) for a, b in zip(expected, got, strict=True))
        if error <= TOLERANCE:
            return error
    raise NotTheSame(
        "a network must compute the same after its zero units are gone",
        got=f"outputs that differ by {error:.1e} of the largest",
        consequence="nothing was changed",
        way_out="after an activation that is not 0 at 0, the weights that read a unit must be zero "
        "too; where forward() does what cannot be traced, exclude the layers there",
    )


def _distance(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return float("inf")
    gap = (a - b).abs().max() / a.abs().max().clamp_min(torch.finfo(a.dtype).tiny)
    return float(gap) if bool(torch.isfinite(gap)) else float("inf")


def _outputs(model: nn.Module, inputs: Any, dtype: torch.dtype) -> list[Tensor]:
    model = deepcopy(model).to(dtype)  # a copy: the given model keeps its dtype
    device = next(model.parameters()).device
    with untouched(model):
        out = tensors_of(call(model, to_device(inputs, device, dtype)))
    return [t.detach() for t in out if t.is_floating_point() and t.numel()]


def _noisy(tree: Any) -> Any:
    """Add noise to real inputs: examples are often zeros, which would hide differences."""
    if isinstance(tree, Tensor) and tree.is_floating_point():
        noise = torch.randn(tree.shape, generator=torch.Generator().manual_seed(0))
        return tree + noise.to(tree.device, tree.dtype)
    if isinstance(tree, Mapping):
        return {key: _noisy(value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        return type(tree)(_noisy(value) for value in tree)
    return tree


def example_of(model: nn.Module) -> dict[str, Tensor]:
    """A small batch for a model of transformers.

    Raises:
        SteppeError: it takes something else than tokens or images.
    """
    config = getattr(model, "config", None)
    kind = getattr(model, "main_input_name", "")
    vocabulary, size = getattr(config, "vocab_size", None), getattr(config, "image_size", None)
    if kind == "input_ids" and isinstance(vocabulary, int):
        return {"input_ids": (torch.arange(16) * 7 % vocabulary).view(2, 8)}
    if kind == "pixel_values" and size is not None:
        height, width = (size, size) if isinstance(size, int) else size
        return {"pixel_values": torch.zeros(2, getattr(config, "num_channels", 3), height, width)}
    raise SteppeError(
        "removal is verified on a batch of inputs",
        got=f"{type(model).__name__} without example_inputs",
        way_out="give one batch, or verify=False",
    )
