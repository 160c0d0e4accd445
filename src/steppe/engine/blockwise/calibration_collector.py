"""Calibration statistics of a block's layers, added up from their inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from steppe.core.calibration_statistics import CALIBRATION, Accumulator
from steppe.core.layer import Layer
from steppe.engine import ranks


class CalibrationCollector:
    """Calibration statistics of a block's layers; layers with one input share them.

    The groups of a convolution have inputs of their own: what is known of single columns is kept
    for each of them, and of products of two columns the mean over the groups.

    A layer that no token reached, as a rarely chosen expert, counts as one whose inputs have equal
    size and no correlation: its weights alone decide. Were its inputs taken as zero, the solvers
    would zero all of it, and other texts do reach it.

    Args:
        layers: layer name -> layer, the experts of a mixture apart.
        needs: names of the statistics.
        device: where they live.
    """

    def __init__(
        self, layers: Mapping[str, Layer], needs: Sequence[str], device: torch.device
    ) -> None:
        self._layers, self._needs, self._device = layers, needs, device
        self._leader: dict[str, str] = {}
        self._sums: dict[str, dict[str, Accumulator]] = {}
        self._last: tuple[str, Any] = ("", None)
        self._unused: set[str] = set()
        self.groups: Mapping[str, int] = {}

    def see(self, name: str, x: Tensor) -> None:
        """Take in one product's inputs."""
        last_name, last_input = self._last
        if name not in self._leader:
            # q, k and v, or gate and up, are given the same tensor one after the other
            self._leader[name] = self._leader[last_name] if last_input is x else name
            if self._leader[name] == name:
                self._sums[name] = self._new(name)
        self._last = (name, x)
        if self._leader[name] == name:
            flat = x.detach().reshape(-1, x.shape[-1]).float()
            for need, accumulator in self._sums[name].items():
                apart = self._apart(name, need)
                grouped = flat.view(apart, -1, flat.shape[1]).transpose(0, 1).flatten(1)
                accumulator.add(grouped)

    def _apart(self, name: str, need: str) -> int:
        """Groups of a convolution whose columns are kept apart."""
        return self.groups.get(name, 1) if CALIBRATION[need].columnwise else 1

    def _new(self, name: str) -> dict[str, Accumulator]:
        columns = self._layers[name].columns
        return {
            n: CALIBRATION[n](columns * self._apart(name, n), self._device) for n in self._needs
        }

    def finish(self) -> None:
        """Add up what the processes saw and take the means."""
        self._last = ("", None)
        if ranks.world() > 1:
            self._agree()
        for name in self._layers:
            if name not in self._leader:
                self._leader[name], self._sums[name] = name, self._new(name)
        for name in sorted(self._sums):
            for accumulator in self._sums[name].values():
                ranks.add_up([accumulator.tokens, accumulator.sum])
                if not accumulator.tokens:
                    self._presume(name, accumulator)
                accumulator.mean()

    def _agree(self) -> None:
        """The same sums on all processes: an expert's tokens may all lie on others."""
        names = list(self._layers)
        place = {name: i for i, name in enumerate(names)}
        leaders = [place[self._leader[n]] if n in self._leader else len(names) for n in names]
        agreed = torch.tensor(leaders, device=self._device)
        ranks.least(agreed)
        groups = torch.tensor([-self.groups.get(n, 1) for n in names], device=self._device)
        ranks.least(groups)
        self.groups = {n: -g for n, g in zip(names, groups.tolist(), strict=True)}
        for name, leader in zip(names, agreed.tolist(), strict=True):
            self._leader[name] = names[leader] if leader < len(names) else name
            if self._leader[name] == name and name not in self._sums:
                self._sums[name] = self._new(name)

    def _presume(self, name: str, accumulator: Accumulator) -> None:
        self._unused.add(name)
        columns = self._layers[name].columns * self._apart(name, accumulator.name)
        accumulator.add(torch.eye(columns, device=self._device))

    def of(self, name: str) -> dict[str, Tensor]:
        """The statistics of a layer, shared with its siblings."""
        return {n: self._rows(name, n, a.sum) for n, a in self._sums[self._leader[name]].items()}

    def _rows(self, name: str, need: str, value: Tensor) -> Tensor:
        """``[rows, columns]`` where groups are apart, as the score sees its statistics."""
        layer, apart = self._layers[name], self._apart(name, need)
        if apart == 1:
            return value
        return value.view(apart, layer.columns).repeat_interleave(layer.rows // apart, 0)

    def few(self) -> dict[str, tuple[int, int]]:
        """Layers whose products of inputs fewer tokens make than it has inputs -> both numbers.

        A solver can fit these tokens exactly, whatever it does to all others.
        """
        whole = [need for need in self._needs if not CALIBRATION[need].columnwise]
        counts = {
            name: (int(self._sums[self._leader[name]][need].tokens), layer.columns)
            for name, layer in self._layers.items()
            for need in whole
            if self._leader[name] not in self._unused
        }
        return {name: both for name, both in counts.items() if both[0] < both[1]}

    def unused(self) -> list[str]:
        """Layers that no calibration token reached: rarely chosen experts."""
        return [n for n in self._layers if self._leader[n] in self._unused]
