"""A latency table: the time of each layer of a network at every width, kept in a file.

Each distinct layer is timed alone over a grid of widths, and so is the whole network. The whole
takes longer than the sum of its layers (additions, padding, calls, cold caches). These choices
predicted networks of other widths best (ResNet-56 and smaller networks, CPU):

- a batch norm is timed with a ReLU behind it, apart from its convolution: the two have one width
  and few shapes, and half as many pairs of widths are measured as for the three together;
- all layers are scaled by whole / sum of layers. The difference as a constant overestimated a
  ResNet-56 of a quarter of the widths at batch 1 by 10 to 20 %; in proportion to the elements that
  are written it underestimated small networks, where calls take the time, by 15 to 20 %. A machine
  that is slower on one day slows all layers alike, which a scale corrects;
- everything is measured in several passes, minutes apart in a large network, and the fastest
  lower quartile counts: another program slows a machine down for seconds, which the range of one
  measurement does not show. By medians alone layers came out 5 to 10 % slower than in the network;
- the allocator is settled before anything is timed (see `steppe.removal.forward_timing.settle`).
  Otherwise page faults depend on what the process did before, and change a layer's time by a
  factor of up to two.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.serialization import write_text
from steppe.core.text import counted
from steppe.removal.forward_timing import Timer, conditions, layout_of, timed
from steppe.removal.latency_command import OTHER, UNKNOWN, LatencyCommand
from steppe.removal.shapes import LayerShape, Width, in_eval_mode, layer_shapes

Point = list[float]
"""Of the fastest pass: lower quartile, median, interquartile range in ms; number of passes."""

WIDTHS = 8  # per side of a layer, about
_HINTS = {"threads": " (or use --threads)", "layout": " (with or without --channels-last)"}
_CONVOLUTIONS: dict[str, Callable[..., nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
    "transposed1d": nn.ConvTranspose1d,
    "transposed2d": nn.ConvTranspose2d,
    "transposed3d": nn.ConvTranspose3d,
}


def key_of(layer: LayerShape, batch: int) -> str:
    """What a layer's time depends on beside its widths.

    Example:
        >>> net = nn.Conv2d(3, 4, 3, padding=1, bias=False)
        >>> key_of(layer_shapes(net, torch.zeros(1, 3, 8, 8), [])[0], 64)
        'conv2d 3x3 stride 1x1 padding 1x1 dilation 1x1 groups 1 on 8x8 batch 64'
    """
    words = [layer.kind]
    if layer.kind == "norm":
        words = [type(layer.module).__name__]
        if isinstance(layer.module, nn.GroupNorm):
            words.append(f"groups {layer.module.num_groups}")
    elif layer.kind != "linear":
        words.append(_text(layer.kernel))
        padding = layer.padding if isinstance(layer.padding, str) else _text(layer.padding)
        words += ["stride", _text(layer.stride), "padding", padding]
        words += ["dilation", _text(layer.dilation)]
        per_input = layer.outputs.full // layer.inputs.full
        if any(output_padding := getattr(layer.module, "output_padding", ())):
            words.append(f"output padding {_text(output_padding)}")
        words.append(f"depthwise {per_input}" if layer.depthwise else f"groups {layer.groups}")
    if layer.kind != "norm" and layer.module.bias is not None:
        words.append("bias")
    rows = str(batch * layer.folded)
    return " ".join([*words, "on", _text(layer.features) or "1", "batch", rows])


def _text(sizes: Iterable[int]) -> str:
    """Sizes as words: 3x3."""
    return "x".join(map(str, sizes))


def axis(width: Width, round_to: int = 1) -> list[int]:
    """The widths at which one side of a layer is measured: the least, the full, and multiples.

    Example:
        >>> from steppe.removal.shapes import GroupWidth
        >>> axis(Width(64, (GroupWidth("a", 64, 1, 1),)))
        [1, 10, 20, 30, 40, 50, 60, 64]
        >>> axis(Width(64, (GroupWidth("a", 64, 8, 1),)), round_to=8)
        [8, 16, 24, 32, 40, 48, 56, 64]
    """
    steps = WIDTHS - 1 if width.least == 1 else WIDTHS
    step = round_to * math.ceil(width.full / round_to / steps)
    inner = range(step, width.full, step)
    return sorted({width.least, *(w for w in inner if w > width.least), width.full})


def tied(layer: LayerShape) -> bool:
    """Whether a layer's input width sets its output width."""
    return layer.kind == "norm" or layer.depthwise


def pairs(layer: LayerShape, inputs: Sequence[int], outputs: Sequence[int]) -> list[list[int]]:
    """The (in, out) that are measured: all, or one for each input width of a tied layer."""
    if tied(layer):
        multiplier = layer.outputs.full // layer.inputs.full
        return [[w, w * multiplier] for w in inputs]
    return [[i, o] for i in inputs for o in outputs]


def build_layer(layer: LayerShape, inputs: int, outputs: int) -> nn.Module:
    """A layer like this one with other widths, random weights, in eval mode."""
    module = layer.module
    if layer.kind == "linear":
        resized: nn.Module = nn.Linear(inputs, outputs, bias=module.bias is not None)
    elif layer.kind != "norm":
        transposed = not layer.kind.startswith("conv")
        options = {"output_padding": module.output_padding} if transposed else {}
        resized = _CONVOLUTIONS[layer.kind](
            inputs,
            outputs,
            layer.kernel,
            layer.stride,
            layer.padding,
            dilation=layer.dilation,
            groups=layer.groups_at(inputs),
            bias=module.bias is not None,
            **options,
        )
    elif isinstance(module, nn.LayerNorm):
        resized = nn.LayerNorm(inputs)
    elif isinstance(module, nn.GroupNorm):
        num_groups = math.gcd(module.num_groups, inputs)
        resized = nn.Sequential(nn.GroupNorm(num_groups, inputs), nn.ReLU())
    else:
        assert isinstance(module, _BatchNorm)
        kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
        dims = max(len(layer.features), 1)
        resized = nn.Sequential(kinds[dims](inputs), nn.ReLU())
    return resized.eval()


def network_key(layers: Sequence[LayerShape]) -> str:
    """A key that is equal for networks with the same layers."""
    text = json.dumps([[la.name, key_of(la, 0), la.inputs.full, la.outputs.full] for la in layers])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class LatencyTable:
    """Measured times of layers and networks.

    Args:
        conditions: see `steppe.removal.forward_timing.conditions`.
        layers: key -> ``points``: ``"INxOUT"`` -> `Point`; ``grids``: the widths (``in``, ``out``)
            whose points are all there.
        networks: `network_key` -> batch -> `Point` of the whole.
        path: its file, or None.
    """

    conditions: dict[str, Any]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: dict[str, dict[str, Point]] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, path: Path | str, command: LatencyCommand = UNKNOWN) -> LatencyTable:
        """Read a table from its file.

        Raises:
            SteppeError: there is no such file, or it is no latency table.
        """
        path = Path(path)
        try:
            stored = json.loads(path.read_text(encoding="utf-8"))
            _check(stored)
            return cls(stored["conditions"], stored["layers"], stored["networks"], path)
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            raise SteppeError(
                "a latency table is a file that steppe latency wrote",
                got=f"{path} ({type(error).__name__})",
                way_out=command.to(OTHER if path.exists() else path),
            ) from None

    def write(self) -> None:
        """Write the table to its file, completely or not at all."""
        if self.path is not None:
            values = {k: v for k, v in vars(self).items() if k != "path"}
            write_text(self.path, json.dumps(values, indent=1))

    def check(
        self,
        here: Mapping[str, Any],
        names: Iterable[str] = ("device", "threads", "dtype", "layout"),
        command: LatencyCommand = UNKNOWN,
    ) -> None:
        """Raise SteppeError when it was not measured under these conditions."""
        for name in names:
            if (there := self.conditions.get(name)) != here[name]:
                raise SteppeError(
                    f"a latency table holds for the {name} it was measured with",
                    got=f"{there} in {self.path or 'the table'}, {here[name]} here",
                    way_out=f"measure here: {command.to()}{_HINTS.get(name, '')}",
                )

    @property
    def batches(self) -> list[int]:
        """The batch sizes that whole networks were measured with."""
        return sorted({int(batch) for batches in self.networks.values() for batch in batches})

    def grid(
        self, layer: LayerShape, batch: int, command: LatencyCommand = UNKNOWN
    ) -> tuple[list[int], list[int], Any]:
        """The widths in and out and the points that cover all that a layer may become.

        Raises:
            SteppeError: it was not measured, or not over these widths.
        """
        entry = self.layers.get(key_of(layer, batch), {"grids": [], "points": {}})
        sides = ((layer.inputs, "in"), (layer.outputs, "out"))
        fitting = [
            grid
            for grid in entry["grids"]
            if all(grid[k][0] <= side.least and side.full <= grid[k][-1] for side, k in sides)
        ]
        if not fitting:
            hint = "" if batch in self.batches else f"; measured batches: {_text(self.batches)}"
            widths = " -> ".join(f"{side.least}..{side.full}" for side, _ in sides)
            step = min((s.least for s, _ in sides if s.least < s.full), default=1)
            raise SteppeError(
                "a latency needs every layer's time at every width it may get",
                got=f"{layer.name}: {key_of(layer, batch)}, widths {widths}{hint}",
                consequence="it was never measured",
                way_out=replace(command, batch=batch, round_to=step).to(self.path or OTHER),
            )
        best = min(fitting, key=lambda g: (g["in"][-1] - g["in"][0], g["out"][-1] - g["out"][0]))
        return best["in"], best["out"], entry["points"]


def _check(stored: dict[str, Any]) -> None:
    """Raise one of the usual errors where a table's values are not as they were written."""
    dict(stored["conditions"])
    layers = list(stored["layers"].values())
    points = [p for own in stored["networks"].values() for p in own.values()]
    points += [p for own in layers for p in own["points"].values()]
    sides = [grid[side] for own in layers for grid in own["grids"] for side in ("in", "out")]
    if any(len(p) != 4 for p in points) or any(not v or math.fsum(v) < 0 for v in points + sides):
        raise ValueError("a point or a grid is none")


def with_batch(
    example_inputs: Any, batch: int, layout: torch.memory_format = torch.contiguous_format
) -> Any:
    """The first sample of the example, repeated ``batch`` times, images in a memory format."""
    if isinstance(example_inputs, Tensor):
        repeated = example_inputs[:1].repeat(batch, *[1] * (example_inputs.ndim - 1))
        return _to_layout(repeated, layout)
    if isinstance(example_inputs, Mapping):
        return {k: with_batch(v, batch, layout) for k, v in example_inputs.items()}
    if isinstance(example_inputs, tuple | list):
        return [with_batch(v, batch, layout) for v in example_inputs]
    return example_inputs


def _to_layout(images: Tensor, layout: torch.memory_format) -> Tensor:
    return images.to(memory_format=layout) if images.ndim == 4 else images


def measure_table(
    model: nn.Module,
    example_inputs: Any,
    groups: Sequence[Group],
    batches: Sequence[int] = (1, 64),
    *,
    path: Path | str | None = None,
    round_to: int = 1,
    passes: int = 3,
    timer: Timer = timed,
    say: Callable[[str], None] = lambda text: None,
) -> LatencyTable:
    """Measure each distinct layer of a model over the widths it may get, and the whole.

    Args:
        model: with all its channels, on the device, in the dtype and the memory format to measure.
        example_inputs: see `steppe.removal.shapes.layer_shapes`; its first sample is repeated.
        groups: its coupled channels: they say which widths are reachable.
        batches: samples per forward pass.
        path: a file that is written while it is measured; what is there already is kept and not
            measured again.
        round_to: widths are measured at multiples of this, about 8 per side of a layer.
        passes: over everything; the fastest counts.
        timer: what measures, see `timed`.
        say: is told of each layer that is measured.

    Raises:
        SteppeError: the file was measured under other conditions.
    """
    if not batches or min(batches) < 1 or round_to < 1 or passes < 1:
        raise SteppeError(
            "batches, round_to and passes are 1 or more",
            got=f"batches {list(batches)}, round_to {round_to}, passes {passes}",
        )
    here = conditions(model)
    table = LatencyTable(here, path=Path(path) if path is not None else None)
    if table.path is not None and table.path.exists():
        table = LatencyTable.read(table.path)
        table.check(here, here)
    layers = layer_shapes(model, example_inputs, groups)
    distinct = {(key_of(la, b), la.inputs, la.outputs): (la, b) for b in batches for la in layers}
    try:
        with in_eval_mode(model):
            for number in range(1, passes + 1):
                measuring = _Pass(table, next(model.parameters()), layout_of(model), timer, number)
                prefix = f"pass {number} of {passes}: "
                for layer, batch in distinct.values():
                    if count := measuring.layer(layer, batch, round_to):
                        say(f"{prefix}{key_of(layer, batch)}: {counted(count, 'width')}")
                for batch in batches:
                    points = table.networks.setdefault(network_key(layers), {})
                    make = partial(_whole, model, example_inputs, batch)
                    if measuring.point(points, str(batch), make):
                        say(f"{prefix}network, batch {batch}: {points[str(batch)][0]:.4g} ms")
    finally:  # what was measured is kept whatever happens
        table.write()
    return table


def _whole(model: nn.Module, example_inputs: Any, batch: int) -> tuple[nn.Module, Any]:
    """A network and what it is called with."""
    return model, with_batch(example_inputs, batch, layout_of(model))


@dataclass
class _Pass:
    """One pass over all layers and networks; points that an earlier run measured are skipped.

    Args:
        table: that is filled; its file is written every few seconds.
        like: a tensor of the device and dtype to measure.
        layout: of images and kernels.
        timer: what measures.
        number: of this pass, from 1.
    """

    table: LatencyTable
    like: Tensor
    layout: torch.memory_format
    timer: Timer
    number: int
    written: float = field(default_factory=time.monotonic)

    def point(
        self, points: dict[str, Point], name: str, make: Callable[[], tuple[nn.Module, Any]]
    ) -> bool:
        """Measure one point unless an earlier run did; whether it was measured now."""
        old = points.get(name, [math.inf, 0.0, 0.0, 0])
        if old[3] >= self.number:
            return False
        points[name] = [*min(tuple(old[:3]), self.timer(*make())), self.number]
        if time.monotonic() - self.written > 2:
            self.table.write()
            self.written = time.monotonic()
        return True

    def layer(self, layer: LayerShape, batch: int, round_to: int) -> int:
        """Measure a layer over its grid; how many points were measured."""
        entry = self.table.layers.setdefault(key_of(layer, batch), {"points": {}, "grids": []})
        grid = {"in": axis(layer.inputs, round_to), "out": axis(layer.outputs, round_to)}
        count = 0
        for pair in pairs(layer, grid["in"], grid["out"]):
            make = partial(self._alone, layer, batch, *pair)
            count += self.point(entry["points"], _text(pair), make)
        if grid not in entry["grids"]:
            entry["grids"].append(grid)
        return count

    def _alone(
        self, layer: LayerShape, batch: int, inputs: int, outputs: int
    ) -> tuple[nn.Module, Tensor]:
        """A layer of these widths and what it is called with."""
        channels_last = layer.kind == "linear" or isinstance(layer.module, nn.LayerNorm)
        features = layer.features
        rows = batch * layer.folded
        shape = (rows, *features, inputs) if channels_last else (rows, inputs, *features)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            example = torch.randn(shape).to(self.like.device, self.like.dtype)
            module = build_layer(layer, inputs, outputs).to(self.like.device, self.like.dtype)
        module = module.to(memory_format=self.layout)  # type: ignore[call-overload]
        return module, _to_layout(example, self.layout)
