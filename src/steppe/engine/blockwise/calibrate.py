"""The inputs of a block's layers, seen where the products are computed."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from steppe.core.calibration_statistics import CALIBRATION, Accumulator
from steppe.core.layer import Layer
from steppe.engine import ranks

See = Callable[[str, Tensor], None]


class _EnoughError(Exception):
    """All inputs of a pass have been seen."""


class InputRecorder(TorchFunctionMode):
    """Calls ``see(layer name, inputs [tokens, columns])`` for every product with a weight.

    It looks at the functions themselves (linear, addmm, matmul), so that a weight is found
    whatever module uses it: Linear, transformers' Conv1D, one expert of a packed mixture.

    Args:
        weights: layer name -> weight, or view of one.
        see: is called before the product.
    """

    def __init__(self, weights: Mapping[str, Tensor], see: See) -> None:
        super().__init__()
        self._names = {(w.data_ptr(), w.numel()): name for name, w in weights.items()}
        self._see = see
        self._seen: list[str] = []
        self._once: bool | None = None  # known after the first pass
        self._brief = False

    def through(self, call: Callable[[], Any]) -> None:
        """A pass of which only the inputs are wanted: it ends with the last of them.

        What comes after the last product's inputs, that product above all, is not computed: a
        fifth of a gated block. The first pass goes to its end and shows whether each weight is
        used once; if one is used more often, or not at all, so do the others.

        Args:
            call: the pass; its result is not used, and it may be left in the middle.
        """
        self._seen, self._brief = [], self._once is True
        with contextlib.suppress(_EnoughError):
            call()
        if self._once is None:
            self._once = len(self._seen) == len(set(self._seen)) == len(self._names)
        self._brief = False

    def _saw(self, name: str, x: Tensor) -> None:
        self._see(name, x)
        self._seen.append(name)
        if self._brief and len(set(self._seen)) == len(self._names):
            raise _EnoughError

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        place = _OPERANDS.get(func)
        if place is not None and len(args) > max(place):
            x, weight = args[place[0]], args[place[1]]
            name = self._name(weight)
            if name is not None:
                self._saw(name, x)
            elif func in _PRODUCTS and (name := self._name(x)) is not None:
                # W X instead of X W': state-space models keep tokens in the last dimension
                self._saw(name, weight if weight.ndim == 1 else weight.transpose(-2, -1))
        return func(*args, **kwargs)

    def _name(self, weight: Any) -> str | None:
        if not isinstance(weight, Tensor) or weight.is_meta:
            return None
        return self._names.get((weight.data_ptr(), weight.numel()))


_PRODUCTS = {torch.matmul, torch.mm, Tensor.matmul, Tensor.mm, Tensor.__matmul__}

# function -> positions of its inputs and its weight
_OPERANDS: dict[Any, tuple[int, int]] = {
    torch.nn.functional.linear: (0, 1),
    torch.addmm: (1, 2),
    **dict.fromkeys(_PRODUCTS, (0, 1)),
}


class CalibrationCollector:
    """Calibration statistics of a block's layers; layers with one input share them.

    A layer that no token reached, as a rarely chosen expert, counts as one whose inputs have equal
    size and no correlation: its weights alone decide. Were its inputs taken as zero, the solvers
    would zero all of it, and other texts do reach it.

    Args:
        layers: layer name -> layer, the experts of a mixture apart.
        needs: names of the statistics.
        device: where they live.
    """

    def __init__(self, layers: Mapping[str, Layer], needs: list[str], device: torch.device) -> None:
        self._layers, self._needs, self._device = layers, needs, device
        self._leader: dict[str, str] = {}
        self._sums: dict[str, dict[str, Accumulator]] = {}
        self._last: tuple[str, Any] = ("", None)
        self._unused: set[str] = set()

    def see(self, name: str, x: Tensor) -> None:
        """Take in one product's inputs."""
        last, held = self._last
        if name not in self._leader:
            # q, k and v, or gate and up, are given the same tensor one after the other
            self._leader[name] = self._leader[last] if held is x else name
            if self._leader[name] == name:
                self._sums[name] = self._new(name)
        self._last = (name, x)
        if self._leader[name] == name:
            flat = x.detach().reshape(-1, x.shape[-1]).float()
            for accumulator in self._sums[name].values():
                accumulator.add(flat)

    def _new(self, name: str) -> dict[str, Accumulator]:
        columns = self._layers[name].columns
        return {n: CALIBRATION[n](columns, self._device) for n in self._needs}

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
        for name, leader in zip(names, agreed.tolist(), strict=True):
            self._leader[name] = names[leader] if leader < len(names) else name
            if self._leader[name] == name and name not in self._sums:
                self._sums[name] = self._new(name)

    def _presume(self, name: str, accumulator: Accumulator) -> None:
        self._unused.add(name)
        accumulator.add(torch.eye(self._layers[name].columns, device=self._device))

    def of(self, name: str) -> dict[str, Tensor]:
        """The statistics of a layer, shared with its siblings."""
        return {n: a.sum for n, a in self._sums[self._leader[name]].items()}

    def unused(self) -> list[str]:
        """Layers that no calibration token reached: rarely chosen experts."""
        return [n for n in self._layers if self._leader[n] in self._unused]
