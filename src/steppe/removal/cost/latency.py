"""The time of a forward pass, predicted from a table of measured layers."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.removal.cost import COSTS, SummedCost
from steppe.removal.forward_timing import conditions
from steppe.removal.latency_command import OTHER, UNKNOWN, LatencyCommand, no_table
from steppe.removal.latency_table import LatencyTable, network_key, tied
from steppe.removal.shapes import LayerShape, layer_shapes


def between(axis: Sequence[int], width: int) -> tuple[int, int, float]:
    """The two measured widths around one, and how far it is from the first to the second.

    Example:
        >>> between([8, 16, 32], 20)
        (16, 32, 0.25)
    """
    above = max(bisect_left(axis, width), 1)
    if len(axis) == 1:
        return axis[0], axis[0], 0.0
    low, high = axis[above - 1], axis[above]
    return low, high, (width - low) / (high - low)


@COSTS.register("latency")
class Latency(SummedCost):
    """Milliseconds of a forward pass: the layers' measured times, scaled to the whole's.

    total(kept) = whole * sum_l time_l(kept) / sum_l time_l(all). Between the widths that were
    measured a layer's time is interpolated linearly in (in, out). The time that the whole takes
    beyond its layers thus shrinks as they do; see `steppe.removal.latency_table` for why.

    Args:
        layers: of the network.
        table: measured with `steppe.removal.latency_table.measure_table` for this network.
        batch: samples per pass.
        command: that measures this network, for messages.
    """

    unit = "ms"
    tolerance = 0.05

    def __init__(
        self,
        layers: Sequence[LayerShape],
        table: LatencyTable,
        batch: int,
        command: LatencyCommand = UNKNOWN,
    ) -> None:
        self._layers, self.batch = layers, batch
        command = replace(command, batch=batch)
        own = table.networks.get(network_key(layers), {})
        if str(batch) not in own:
            raise _not_measured(table, own, command)
        whole = own[str(batch)]
        self._grids = [table.grid(layer, batch, command) for layer in layers]
        self._computed: dict[tuple[int, int, int], float] = {}
        self._scale = 1.0
        super().__init__(len(layers))
        self._scale = whole[0] / super().total({})
        self._computed.clear()

    @classmethod
    def of(
        cls, model: nn.Module, example_inputs: Any, groups: Sequence[Group], **options: Any
    ) -> Self:
        """The latency of a model.

        Args:
            model: with all its channels.
            example_inputs: what it is called with.
            groups: its coupled channels.
            options: ``table``: a LatencyTable or its file; ``batch``: samples per pass, may be
                left out where the table has one only; ``command``: a LatencyCommand that measures
                this network, for messages.

        Raises:
            SteppeError: the table was measured under other conditions, or for other layers.
        """
        table, batch = options.get("table"), options.get("batch")
        command = options.get("command", LatencyCommand(batch=batch or 1))
        if table is None:
            raise no_table(command)
        if isinstance(table, str | Path):
            table = LatencyTable.read(table, command)
        table.check(conditions(model), command=command)
        if batch is None and len(table.batches) != 1:
            raise SteppeError(
                "a latency is that of one batch size",
                got=f"a table of {table.batches}",
                way_out=f"channels: {{batch: {table.batches[-1]}}} in the recipe, or batch=",
            )
        layers = layer_shapes(model, example_inputs, groups)
        return cls(layers, table, table.batches[0] if batch is None else batch, command)

    def groups_of(self, number: int) -> Iterable[str]:
        layer = self._layers[number]
        return (own.group for side in (layer.inputs, layer.outputs) for own in side.from_groups)

    def term(self, number: int, kept: Mapping[str, int]) -> float:
        layer = self._layers[number]
        inputs, outputs = layer.widths(kept)
        key = (number, inputs, outputs)
        if key not in self._computed:
            self._computed[key] = self._scale * self._interpolated(number, inputs, outputs)
        return self._computed[key]

    def _interpolated(self, number: int, inputs: int, outputs: int) -> float:
        """The layer's own time at these widths."""
        layer = self._layers[number]
        ins, outs, points = self._grids[number]
        low, high, right = between(ins, inputs)
        if tied(layer):
            multiplier = layer.outputs.full // layer.inputs.full
            corners = [(low, low * multiplier, 1 - right), (high, high * multiplier, right)]
        else:
            lower, upper, up = between(outs, outputs)
            corners = [
                (low, lower, (1 - right) * (1 - up)),
                (low, upper, (1 - right) * up),
                (high, lower, right * (1 - up)),
                (high, upper, right * up),
            ]
        return float(sum(share * points[f"{i}x{o}"][0] for i, o, share in corners if share))


def _not_measured(
    table: LatencyTable, own: Mapping[str, Any], command: LatencyCommand
) -> Exception:
    """The error for a network whose whole a table has not, or not at this batch."""
    file = table.path or "the table"
    if own:
        there = ", ".join(own)
        return SteppeError(
            "a latency needs the time of the whole network too",
            got=f"{file}, which has this network with batch {there} and not {command.batch}",
            way_out=command.to(table.path or OTHER),
        )
    of = "" if command.size is None else f" ({command.size} x {command.size} here)"
    return SteppeError(
        "a latency needs the time of the whole network too",
        got=f"{file}, which was measured with another network, images of another size{of} or "
        "another number of classes",
        way_out=f"{command.to()}, then --table {OTHER}",
    )
