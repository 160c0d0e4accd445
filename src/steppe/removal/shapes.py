"""The shapes of a network's layers, with widths as functions of the units that stay."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import inputs_first as is_transposed
from steppe.removal.forward import call

CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
NORMS = (_BatchNorm, nn.GroupNorm, nn.LayerNorm)


@dataclass(frozen=True)
class GroupWidth:
    """The channels of one side of a layer that belong to one group.

    Args:
        group: its name.
        units: how many it has.
        least: the fewest of them that may stay.
        channels: how many channels (or columns, after a flatten) one unit stands for.
    """

    group: str
    units: int
    least: int
    channels: int


@dataclass(frozen=True)
class Width:
    """How wide one side of a layer is, as a function of the units that stay.

    Args:
        full: when every unit stays.
        from_groups: the groups whose units make it narrower when they go.

    Example:
        >>> Width(8, (GroupWidth("conv.weight", 4, 1, 2),)).at({"conv.weight": 3})
        6
    """

    full: int
    from_groups: tuple[GroupWidth, ...] = ()

    def at(self, kept: Mapping[str, int]) -> int:
        """The width with so many units of each group; a group not named is kept whole."""
        removed = 0
        for own in self.from_groups:
            removed += own.channels * (own.units - kept.get(own.group, own.units))
        return self.full - removed

    @property
    def least(self) -> int:
        """The smallest width that may be reached."""
        return self.at({own.group: own.least for own in self.from_groups})


@dataclass(frozen=True)
class LayerShape:
    """One call of one layer.

    Args:
        name: of the module; a module that is called twice has two shapes.
        kind: ``conv1d``, ``conv2d``, ``conv3d``, ``transposed1d`` and so on, ``linear`` (also
            transformers' Conv1D) or ``norm``.
        kernel, stride, padding, dilation: of a convolution; empty otherwise.
        groups: of a convolution. It stays as it is when channels go, except that a
            ``depthwise`` convolution has as many groups as inputs.
        features: the input's size beyond its channels: height and width, or tokens.
        positions: outputs per channel for one sample; inputs of a transposed convolution.
        folded: rows that one sample has in the first dimension: windows, frames or tokens.
        inputs, outputs: the widths of its two sides; a norm's are the same.
        depthwise: whether every group has one input channel.
        module: the layer itself, for its other settings.
    """

    name: str
    kind: str
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    padding: tuple[int, ...] | str
    dilation: tuple[int, ...]
    groups: int
    features: tuple[int, ...]
    positions: int
    folded: int
    inputs: Width
    outputs: Width
    depthwise: bool
    module: nn.Module

    def widths(self, kept: Mapping[str, int]) -> tuple[int, int]:
        """Channels (in, out) with so many units of each group; one not named is kept whole."""
        return self.inputs.at(kept), self.outputs.at(kept)

    def groups_at(self, inputs: int) -> int:
        """The groups of the convolution with so many input channels."""
        return inputs if self.depthwise else self.groups

    def multiply_adds(self, kept: Mapping[str, int]) -> int:
        """Of one sample; 0 for a norm."""
        if self.kind == "norm":
            return 0
        inputs, outputs = self.widths(kept)
        per_output = inputs // self.groups_at(inputs) * math.prod(self.kernel)
        return self.positions * outputs * per_output


@contextmanager
def in_eval_mode(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; every module gets its own mode back."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def group_widths(names: Iterable[str], dim: int, groups: Sequence[Group]) -> tuple[GroupWidth, ...]:
    """The groups that have units along a dimension of a tensor, which may have several names.

    Positions that a group names twice count once, as they can go only once.
    """
    own_names, widths = set(names), []
    for group in groups:
        index = [s.index for s in group.slices if s.name in own_names and s.dim == dim]
        if index:
            channels = {len(set(row.tolist())) for row in torch.cat(index, dim=1)}
            assert len(channels) == 1, f"units of {group.name} differ in size along {dim}"
            widths.append(GroupWidth(group.name, group.units, group.least, channels.pop()))
    return tuple(widths)


def layer_shapes(
    model: nn.Module, example_inputs: Any, groups: Sequence[Group]
) -> list[LayerShape]:
    """The convolutions, linear layers and norms of a network, in the order they are called.

    The model answers once, in eval mode and without gradients; it is left bit for bit as it was.

    Args:
        model: any module; layers that it does not call are left out, and so are weights that are
            used without a layer of their own (``nn.MultiheadAttention``'s).
        example_inputs: a tensor, a tuple of arguments or a mapping of keywords, of any batch size.
        groups: its coupled channels.

    Returns:
        One shape per call.

    Raises:
        SteppeError: none of its layers was called.

    Example:
        >>> from steppe.core.group import Slice
        >>> net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))
        >>> rows = Slice("0.weight", 0, torch.arange(4).view(4, 1), "output")
        >>> columns = Slice("2.weight", 1, torch.arange(16).view(4, 4), "input")
        >>> inner = Group("0.weight", (rows, columns))
        >>> shapes = layer_shapes(net, torch.zeros(1, 3, 4, 4), [inner])
        >>> [(s.kind, s.positions, s.widths({"0.weight": 3})) for s in shapes]
        [('conv2d', 4, (3, 3)), ('linear', 1, (12, 2))]
    """
    shapes: list[LayerShape] = []
    names = {module: name for name, module in model.named_modules()}

    samples = _samples(example_inputs)

    def record(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
        if inputs and isinstance(inputs[0], Tensor):
            folded = max(inputs[0].shape[0] // samples, 1)
            shapes.append(_shape(names[module], module, inputs[0], output, folded, groups))

    hooks = [
        module.register_forward_hook(record)
        for module in names
        if isinstance(module, (*CONVS, *TRANSPOSED, nn.Linear, *NORMS)) or is_transposed(module)
    ]
    try:
        with in_eval_mode(model):
            call(model, example_inputs)
    finally:
        for hook in hooks:
            hook.remove()
    if not shapes:
        raise SteppeError(
            "a cost needs a network with convolutions or linear layers",
            got=f"{type(model).__name__}, which called none",
        )
    return shapes


def _samples(example_inputs: Any) -> int:
    """The batch size of an example: the first dimension of its first tensor."""
    if isinstance(example_inputs, Mapping):
        example_inputs = list(example_inputs.values())
    inputs = example_inputs if isinstance(example_inputs, tuple | list) else [example_inputs]
    sizes = [x.shape[0] for x in inputs if isinstance(x, Tensor) and x.ndim]
    return sizes[0] if sizes else 1


def _shape(
    name: str,
    module: nn.Module,
    x: Tensor,
    output: Tensor,
    folded: int,
    groups: Sequence[Group],
) -> LayerShape:
    """The shape of one call."""
    prefix = f"{name}." if name else ""
    if isinstance(module, (*CONVS, *TRANSPOSED)):
        return _conv_shape(name, module, x, output, folded, groups)
    if isinstance(module, nn.Linear) or is_transposed(module):
        weight = [f"{prefix}weight"]
        transposed = not isinstance(module, nn.Linear)  # Conv1D's weight is [in, out]
        inputs = Width(x.shape[-1], group_widths(weight, 0 if transposed else 1, groups))
        outputs = Width(output.shape[-1], group_widths(weight, 1 if transposed else 0, groups))
        features = tuple(x.shape[1:-1])
        kind, positions = "linear", folded * math.prod(features)
    else:
        channels_last = isinstance(module, nn.LayerNorm)  # the others: dimension 1
        features = tuple(x.shape[1:-1] if channels_last else x.shape[2:])
        own = [f"{prefix}{n}" for n in ("weight", "bias", "running_mean")]
        inputs = outputs = Width(x.shape[-1 if channels_last else 1], group_widths(own, 0, groups))
        kind, positions = "norm", folded * math.prod(features)
    return LayerShape(
        name,
        kind,
        *((), (), (), ()),
        groups=1,
        features=features,
        positions=positions,
        folded=folded,
        inputs=inputs,
        outputs=outputs,
        depthwise=False,
        module=module,
    )


def _conv_shape(
    name: str, module: Any, x: Tensor, output: Tensor, folded: int, groups: Sequence[Group]
) -> LayerShape:
    """The shape of a convolution; of a grouped one dimension 1 is within one group."""
    weight = [f"{name}.weight" if name else "weight"]
    dims = len(module.kernel_size)
    assert x.ndim == dims + 2, "a batch dimension is needed"
    depthwise = module.groups > 1 and module.groups == module.in_channels
    transposed = isinstance(module, TRANSPOSED)
    first = group_widths(weight, 0, groups)
    if depthwise:  # both sides are dimension 0: as many groups as inputs
        multiplier = module.out_channels // module.in_channels
        second = tuple(
            replace(f, channels=f.channels * multiplier if transposed else f.channels // multiplier)
            for f in first
        )
    else:
        inner = group_widths(weight, 1, groups)
        second = tuple(replace(f, channels=f.channels * module.groups) for f in inner)
    inputs, outputs = (first, second) if transposed else (second, first)
    padding = module.padding
    return LayerShape(
        name,
        f"{'transposed' if transposed else 'conv'}{dims}d",
        tuple(module.kernel_size),
        tuple(module.stride),
        padding if isinstance(padding, str) else tuple(padding),
        tuple(module.dilation),
        module.groups,
        tuple(x.shape[2:]),
        folded * math.prod((x if transposed else output).shape[2:]),
        folded,
        Width(module.in_channels, inputs),
        Width(module.out_channels, outputs),
        depthwise,
        module,
    )
