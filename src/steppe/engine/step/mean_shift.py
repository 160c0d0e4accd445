"""What reads coupled channels takes over the means of those that go."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from steppe.core.errors import SteppeError
from steppe.core.given_tensors import GivenTensors
from steppe.core.group import Group
from steppe.core.layer import Layer, home_of
from steppe.core.protocols import Tensors
from steppe.core.statistic import Statistic


@dataclass(frozen=True, eq=False)
class _Reader:
    """A layer that reads coupled channels.

    Args:
        name: of the layer.
        module: it.
        inputs: the dimension of its weight along which the channels lie, 0 or 1.
    """

    name: str
    module: nn.Module
    inputs: int

    @property
    def weight(self) -> str:
        return f"{self.name}.weight"

    @property
    def has_bias(self) -> bool:
        return getattr(self.module, "bias", None) is not None

    def lost(self, weight: Tensor, keep: Tensor, mean: Tensor) -> Tensor:
        """``[outputs]``: sum of w E[x] over what goes; 0 where the output itself is gone."""
        products = weight.masked_fill(keep, 0).to(mean.dtype) * mean
        outputs = 1 - self.inputs
        total = products.movedim(outputs, 0).flatten(1).sum(1)
        return total.masked_fill(~keep.movedim(outputs, 0).flatten(1).any(1), 0)


class MeanShift:
    """Where the means of channels that go are put, W_gone E[a_gone] of each layer that reads them.

    It is added to the layer's bias. A layer without one must give its outputs straight to norms
    that keep running means, from which it is taken, or that take the mean out of what they get,
    where nothing is left to do. Which norms these are, the first pass shows.

    Args:
        model: not wrapped.
        groups: the coupled channels.
        statistic: the mean of each input is the first entry of its values.

    Raises:
        SteppeError: the inputs of a layer that reads channels cannot be seen.

    Source: Berisha et al. 2025 (Variance-Based Pruning, arXiv 2507.12988).
    """

    def __init__(self, model: nn.Module, groups: Sequence[Group], statistic: Statistic) -> None:
        self._model, self._statistic = model, statistic
        dims = {s.name: s.dim for g in groups for s in g.slices if s.role == "input"}
        for name in dims:
            layer = Layer(name, tuple(model.get_parameter(name).shape))
            if not statistic.gathers(layer, home_of(model, name)):
                raise SteppeError(
                    "the means of channels are taken over by linear layers and convolutions",
                    got=f"{name}, which reads some and is neither",
                    way_out="exclude it from channel_groups, or shift false of coupling hard_mask",
                )
        owners = {name.rpartition(".")[0]: dim for name, dim in sorted(dims.items())}
        self._readers = [_Reader(n, model.get_submodule(n), dim) for n, dim in owners.items()]
        self._norms: dict[str, list[str]] | None = None
        self._tensors: GivenTensors | None = None
        self._pass = ExitStack()
        if without := [r for r in self._readers if not r.has_bias]:
            norms = [m for m in model.modules() if isinstance(m, _NormBase)]
            self._tensors = GivenTensors({r.module: r.name for r in without}, norms)

    def active(self, on: bool) -> None:
        """Told before and after each pass at x; it looks at those of the first step."""
        if not on:
            self._pass.close()
        elif self._norms is None and self._tensors is not None:
            self._pass.enter_context(self._tensors.watching())

    def beside(self) -> Tensors:
        """Name -> the biases and running means, themselves.

        Raises:
            SteppeError: a layer has neither.
        """
        places: Tensors = {}
        for reader in self._readers:
            if reader.has_bias:
                places[f"{reader.name}.bias"] = self._model.get_parameter(f"{reader.name}.bias")
        for norms in self._known_norms().values():
            places |= {n: self._model.get_buffer(n) for n in norms}
        return {name: tensor.detach() for name, tensor in places.items()}

    def _known_norms(self) -> Mapping[str, list[str]]:
        """Layer without bias -> the running means behind it; empty before the first pass."""
        tensors = self._tensors
        if self._norms is None and tensors is not None and (tensors.pairs or tensors.elsewhere):
            names = {module: name for name, module in self._model.named_modules()}
            found: dict[str, list[str]] = {}
            for giver, norm in tensors.pairs:
                means = found.setdefault(giver, [])
                if getattr(norm, "running_mean", None) is not None:
                    means.append(f"{names[norm]}.running_mean")
            bare = [r.name for r in self._readers if not r.has_bias]
            homeless = [n for n in bare if n not in found or n in tensors.elsewhere]
            if homeless:
                more = f" and {len(homeless) - 3} more" if len(homeless) > 3 else ""
                raise SteppeError(
                    "the means of channels that go need a bias, or a batch norm straight behind",
                    got=f"neither for {', '.join(homeless[:3])}{more}",
                    way_out="layers with bias=True, exclude them from channel_groups, or shift "
                    "false of coupling hard_mask",
                )
            self._norms = found
        return self._norms or {}

    def take_over(self, weights: Tensors, masks: Tensors, beside: Tensors) -> None:
        """Shift the biases and running means, in place; the weights are left as they are.

        Args:
            weights: name -> tensor; what went earlier is zero already, and counts no more.
            masks: name -> booleans, True = kept.
            beside: as `beside` gives them, or copies.

        Raises:
            SteppeError: channels go of which no mean is known, or no norm.
        """
        for reader in self._readers:
            weight, keep = weights[reader.weight], masks[reader.weight]
            if not bool(weight.masked_fill(keep, 0).any()):
                continue
            moments = self._statistic.value(reader.weight)
            norms = self._known_norms()
            if moments is None or not (reader.has_bias or reader.name in norms):
                raise SteppeError(
                    "the means of channels that go come from steps of this run",
                    got=f"none that {reader.name} took part in",
                    way_out="use it in the model's forward and make a step before the cut, or "
                    "shift false of coupling hard_mask",
                )
            lost = reader.lost(weight, keep, moments[0])
            if reader.has_bias:
                _add(beside[f"{reader.name}.bias"], lost)
            else:
                for name in norms[reader.name]:
                    _add(beside[name], -lost)


def _add(tensor: Tensor, amount: Tensor) -> None:
    tensor.copy_(tensor.to(amount.dtype) + amount)
