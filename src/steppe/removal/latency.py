"""How long the layers of a network take at every width, measured here and kept in a file.

Each distinct layer is timed alone over a grid of widths, and so is the whole network; what the
layers do not explain (additions, padding, a layer's colder memory inside a network) is the rest.
On a ResNet-56 this predicted networks of other widths best when

- a batch norm is timed with a ReLU behind it, apart from its convolution: the two have one width
  and few shapes, and half as many pairs of widths are measured as for the three together;
- the rest is shared among the layers in proportion to the elements they write, so that it shrinks
  with them; as a constant it overrated a network of a quarter of the widths by 10 to 20 %;
- the allocator is settled before anything is timed (see `settle`); without it page faults come and
  go with what the process did before, and move a layer's time by a factor of up to two.
"""

from __future__ import annotations

import hashlib
import json
import math
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.tree import write_text
from steppe.removal.shapes import LayerShape, Width, call, in_eval_mode, layer_shapes

Timing = tuple[float, float]
"""Median and interquartile range, ms."""
Timer = Callable[[nn.Module, Any], Timing]
"""Times a module on its inputs."""

MOST = 8  # widths per side of a layer, about
_SETTLED = 31 * 2**20  # glibc raises its thresholds up to blocks of 32 MiB
_PLAIN: dict[str, Callable[..., nn.Module]] = {
    "conv1d": nn.Conv1d,
    "conv2d": nn.Conv2d,
    "conv3d": nn.Conv3d,
}


def settle() -> None:
    """Let the C library keep freed memory, so that page faults are not part of what is timed.

    Blocks below the largest that was ever freed come from memory that the process holds; one
    large block that is freed thus makes every later timing alike. Without effect where the
    library works otherwise.
    """
    torch.ones(_SETTLED, dtype=torch.uint8)


def timed(
    module: nn.Module, inputs: Any, *, repeats: int = 15, seconds: float = 0.5, tries: int = 3
) -> Timing:
    """Median and interquartile range of a module's time, in ms.

    Args:
        module: in eval mode.
        inputs: see `steppe.removal.shapes.call`.
        repeats: at least 5 are made, and so many if they take less than ``seconds``.
        seconds: see ``repeats``.
        tries: when the range is more than a tenth of the median, something else was running:
            it is measured again, up to so often in all, and the quickest median counts.
    """
    tensors = [p.device for p in module.parameters()] or [torch.device("cpu")]
    cuda = tensors[0].type == "cuda"

    def once() -> float:
        if cuda:
            torch.cuda.synchronize()
        begun = time.perf_counter()
        call(module, inputs)
        if cuda:
            torch.cuda.synchronize()
        return 1000 * (time.perf_counter() - begun)

    best = (math.inf, 0.0)
    with torch.no_grad():
        settle()
        for _ in range(3):
            took = once()
        count = max(5, min(repeats, int(1000 * seconds / max(took, 1e-6))))
        for _ in range(tries):
            low, middle, high = statistics.quantiles([once() for _ in range(count)], n=4)
            best = min(best, (middle, high - low))
            if high - low <= 0.1 * middle:
                break
    return best


def conditions(model: nn.Module) -> dict[str, Any]:
    """What a time depends on beside the network: device, threads, dtype, version of torch."""
    parameter = next(model.parameters())
    cuda = parameter.device.type == "cuda"
    device = torch.cuda.get_device_name(parameter.device) if cuda else processor()
    return {
        "device": device,
        # a GPU's time does not depend on the threads beside it
        "threads": None if cuda else torch.get_num_threads(),
        "dtype": str(parameter.dtype).removeprefix("torch."),
        "torch": torch.__version__,
    }


def processor() -> str:
    """The name of this machine's processor."""
    path = Path("/proc/cpuinfo")
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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
        words.append(_x(layer.kernel))
        padding = layer.padding if isinstance(layer.padding, str) else _x(layer.padding)
        words += ["stride", _x(layer.stride), "padding", padding, "dilation", _x(layer.dilation)]
        per_input = layer.outputs.full // layer.inputs.full
        words.append(f"depthwise {per_input}" if layer.depthwise else f"groups {layer.groups}")
    if layer.kind != "norm" and layer.module.bias is not None:
        words.append("bias")
    return " ".join([*words, "on", _x(layer.features) or "1", "batch", str(batch)])


def _x(sizes: Iterable[int]) -> str:
    return "x".join(map(str, sizes))


def axis(width: Width, round_to: int = 1) -> list[int]:
    """The widths at which one side of a layer is measured: the least, the full, and multiples.

    Example:
        >>> from steppe.removal.shapes import Feed
        >>> axis(Width(64, (Feed("a", 64, 1, 1),)))
        [1, 10, 20, 30, 40, 50, 60, 64]
        >>> axis(Width(64, (Feed("a", 64, 8, 1),)), round_to=8)
        [8, 16, 24, 32, 40, 48, 56, 64]
    """
    step = round_to * math.ceil(width.full / round_to / (MOST - 1 if width.least == 1 else MOST))
    inner = range(step, width.full, step)
    return sorted({width.least, *(w for w in inner if w > width.least), width.full})


def tied(layer: LayerShape) -> bool:
    """Whether a layer's two widths are one."""
    return layer.kind == "norm" or layer.depthwise


def pairs(layer: LayerShape, inputs: Sequence[int], outputs: Sequence[int]) -> list[list[int]]:
    """The (in, out) that are measured: all, or for a layer of one width that one with itself."""
    if tied(layer):
        each = layer.outputs.full // layer.inputs.full
        return [[w, w * each] for w in inputs]
    return [[i, o] for i in inputs for o in outputs]


def built(layer: LayerShape, inputs: int, outputs: int) -> nn.Module:
    """A layer like this one with other widths, random weights, in eval mode."""
    module = layer.module
    if layer.kind == "linear":
        made: nn.Module = nn.Linear(inputs, outputs, bias=module.bias is not None)
    elif layer.kind != "norm":
        made = _PLAIN[layer.kind](
            inputs,
            outputs,
            layer.kernel,
            layer.stride,
            layer.padding,
            layer.dilation,
            layer.groups_at(inputs),
            module.bias is not None,
        )
    elif isinstance(module, nn.LayerNorm):
        made = nn.LayerNorm(inputs)
    elif isinstance(module, nn.GroupNorm):
        made = nn.Sequential(nn.GroupNorm(math.gcd(module.num_groups, inputs), inputs), nn.ReLU())
    else:
        assert isinstance(module, _BatchNorm)
        kinds = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
        dims = max(len(layer.features), 1)
        made = nn.Sequential(kinds[dims](inputs), nn.ReLU())
    return made.eval()


def network_key(layers: Sequence[LayerShape]) -> str:
    """The same for networks of the same layers."""
    text = json.dumps([[la.name, key_of(la, 0), la.inputs.full, la.outputs.full] for la in layers])
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass
class LatencyTable:
    """Measured times of layers and networks.

    Args:
        conditions: see the function of this name.
        layers: key -> ``points``: ``"INxOUT"`` -> median and range in ms; ``grids``: the widths
            (``in``, ``out``) whose points are all there.
        networks: `network_key` -> batch -> median and range in ms of the whole.
        path: its file, or None.
    """

    conditions: dict[str, Any]
    layers: dict[str, dict[str, Any]] = field(default_factory=dict)
    networks: dict[str, dict[str, Timing]] = field(default_factory=dict)
    path: Path | None = None

    @classmethod
    def read(cls, path: Path | str) -> LatencyTable:
        """From its file.

        Raises:
            SteppeError: there is none, or it is no table.
        """
        path = Path(path)
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
            return cls(held["conditions"], held["layers"], held["networks"], path)
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise SteppeError(
                "a latency table is a file that steppe latency wrote",
                got=f"{path} ({type(error).__name__})",
                way_out=f"steppe latency MODEL --batch 1,64 --out {path}",
            ) from None

    def write(self) -> None:
        """To its file, whole or not at all."""
        if self.path is not None:
            held = {k: v for k, v in vars(self).items() if k != "path"}
            write_text(self.path, json.dumps(held, indent=1))

    def check(
        self, here: Mapping[str, Any], names: Iterable[str] = ("device", "threads", "dtype")
    ) -> None:
        """Raise SteppeError when it was not measured under these conditions."""
        for name in names:
            if self.conditions.get(name) != here[name]:
                raise SteppeError(
                    f"a latency table holds for the {name} it was measured with",
                    got=f"{self.conditions.get(name)} in {self.path or 'the table'},"
                    f" {here[name]} here",
                    way_out="measure here: steppe latency MODEL --batch ... --out ANOTHER.json"
                    + (" (or use --threads)" if name == "threads" else ""),
                )

    @property
    def batches(self) -> list[int]:
        """The batch sizes that whole networks were measured with."""
        return sorted({int(batch) for known in self.networks.values() for batch in known})

    def grid(self, layer: LayerShape, batch: int) -> tuple[list[int], list[int], Any]:
        """The widths in and out and the points that cover all that a layer may become.

        Raises:
            SteppeError: it was not measured, or not over these widths.
        """
        held = self.layers.get(key_of(layer, batch), {"grids": [], "points": {}})
        sides = ((layer.inputs, "in"), (layer.outputs, "out"))
        fitting = [
            grid
            for grid in held["grids"]
            if all(grid[k][0] <= side.least and side.full <= grid[k][-1] for side, k in sides)
        ]
        if not fitting:
            known = f"; measured batches: {_x(self.batches)}" if batch not in self.batches else ""
            widths = " -> ".join(f"{side.least}..{side.full}" for side, _ in sides)
            raise SteppeError(
                "a latency needs every layer's time at every width it may get",
                got=f"{layer.name}: {key_of(layer, batch)}, widths {widths}{known}",
                consequence="it was never measured",
                way_out=f"steppe latency MODEL --batch {batch} --out {self.path or 'table.json'}",
            )
        best = min(fitting, key=lambda g: (g["in"][-1] - g["in"][0], g["out"][-1] - g["out"][0]))
        return best["in"], best["out"], held["points"]


def resized(example_inputs: Any, batch: int) -> Any:
    """The first sample of the example, so many times."""
    if isinstance(example_inputs, Tensor):
        return example_inputs[:1].repeat(batch, *[1] * (example_inputs.ndim - 1))
    if isinstance(example_inputs, Mapping):
        return {k: resized(v, batch) for k, v in example_inputs.items()}
    if isinstance(example_inputs, tuple | list):
        return [resized(v, batch) for v in example_inputs]
    return example_inputs


def measure_table(
    model: nn.Module,
    example_inputs: Any,
    groups: Sequence[Group],
    batches: Sequence[int] = (1, 64),
    *,
    path: Path | str | None = None,
    round_to: int = 1,
    timer: Timer = timed,
    say: Callable[[str], None] = lambda text: None,
) -> LatencyTable:
    """Measure each distinct layer of a model over the widths it may get, and the whole.

    Args:
        model: with all its channels, on the device and in the dtype to measure.
        example_inputs: see `steppe.removal.shapes.layer_shapes`; its first sample is repeated.
        groups: its coupled channels: they say which widths are reachable.
        batches: samples per forward pass.
        path: a file that is written while it is measured; what is there already is kept and not
            measured again.
        round_to: widths are measured at multiples of this, about 8 per side of a layer.
        timer: what measures, see `timed`.
        say: is told of each layer that is measured.

    Raises:
        SteppeError: the file was measured under other conditions.
    """
    if not batches or min(batches) < 1 or round_to < 1:
        raise SteppeError(
            "batches and round_to are 1 or more", got=f"{list(batches)}, round_to {round_to}"
        )
    here = conditions(model)
    table = LatencyTable(here, path=Path(path) if path is not None else None)
    if table.path is not None and table.path.exists():
        table = LatencyTable.read(table.path)
        table.check(here, here)
    layers = layer_shapes(model, example_inputs, groups)
    with in_eval_mode(model):
        for batch in batches:
            for layer in layers:
                _measure_layer(table, layer, batch, round_to, next(model.parameters()), timer, say)
            known = table.networks.setdefault(network_key(layers), {})
            if str(batch) not in known:
                say(f"whole network, batch {batch}")
                known[str(batch)] = timer(model, resized(example_inputs, batch))
                table.write()
    return table


def _measure_layer(
    table: LatencyTable,
    layer: LayerShape,
    batch: int,
    round_to: int,
    like: Tensor,
    timer: Timer,
    say: Callable[[str], None],
) -> None:
    """Measure what is missing of one layer's grid; the file is written every few seconds."""
    key = key_of(layer, batch)
    held = table.layers.setdefault(key, {"points": {}, "grids": []})
    grid = {"in": axis(layer.inputs, round_to), "out": axis(layer.outputs, round_to)}
    if grid in held["grids"]:
        return
    missing = [p for p in pairs(layer, grid["in"], grid["out"]) if _x(p) not in held["points"]]
    say(f"{key}: {len(missing)} pairs of widths")
    written = time.monotonic()
    for inputs, outputs in missing:
        features = layer.features
        last = layer.kind == "linear" or isinstance(layer.module, nn.LayerNorm)
        shape = (batch, *features, inputs) if last else (batch, inputs, *features)
        with torch.random.fork_rng(devices=[]):  # the caller's random numbers stay as they are
            example = torch.randn(shape).to(like.device, like.dtype)
            module = built(layer, inputs, outputs).to(like.device, like.dtype)
        held["points"][_x((inputs, outputs))] = timer(module, example)
        if time.monotonic() - written > 2:
            table.write()
            written = time.monotonic()
    held["grids"].append(grid)
    table.write()
