"""The neurons of a run: which entries of which parameters, and what each is worth at a step."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import accumulate

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.layer import Layer, home_of, unwrap
from steppe.core.neurons import Neurons, beside, joined
from steppe.core.protocols import NeuronPerturb, Score, Tensors
from steppe.core.statistic import STATISTICS
from steppe.engine.step.following_norms import FollowingNorms
from steppe.engine.step.prunable_weights import PrunableWeights
from steppe.engine.step.selected_layers import output_layer
from steppe.engine.step.selector import OUTPUT, Selector
from steppe.method import Method

ROLES = ("output", "bias", "norm")
"""What of a group of coupled channels is a neuron's own; columns that read it are another's."""


def neurons_of(
    method: Method,
    form: Method,
    model: nn.Module,
    prunable: PrunableWeights,
    selector: Selector,
    known: Collection[str] = (),
    *,
    rank_local: bool = False,
    keeps_output: bool = False,
) -> RunNeurons | None:
    """The neurons of a run whose perturbation looks at them; None where it does not.

    Args:
        method: its perturbation decides.
        form: the method with the scores that it uses on this network.
        model: wrapped or not.
        prunable: the weights of the run.
        selector: scores them.
        known: statistics that need not be gathered.
        rank_local: whether each rank perturbs along its own gradient.
        keeps_output: whether nothing is pruned, so that the neurons are those that could be: all
            but those of the output layer.

    Raises:
        SteppeError: the score of neurons cannot see them.
    """
    told = [part for part in method.perturb.parts if isinstance(part, NeuronPerturb)]
    if not told:
        return None
    if prunable.groups:
        neurons: RunNeurons = GroupNeurons(model, prunable, selector)
    else:
        neurons = LayerNeurons(model, prunable, selector, keeps_output)
    forms = [part.psi for part in form.perturb.parts if isinstance(part, NeuronPerturb)]
    neurons.forms = dict(zip((part.psi for part in told), forms, strict=True))
    for psi in forms:
        neurons.check(psi)
        for need in psi.needs:
            if need not in known:
                neurons.check_gathered(psi, need, rank_local)
    return neurons


class RunNeurons:
    """What coupled channels and the rows of single layers share.

    Args:
        model: wrapped or not.
        prunable: the weights of the run.
        selector: scores them.
    """

    sizes: tuple[int, ...]

    def __init__(self, model: nn.Module, prunable: PrunableWeights, selector: Selector) -> None:
        self.model, self.prunable, self.selector = unwrap(model), prunable, selector
        self._members: Tensors | None = None
        self.forms: dict[Score, Score] = {}
        """What each score of neurons is on this network, chosen once, as its statistics were."""

    @property
    def followers(self) -> dict[str, str]:
        """Parameter -> the layer whose outputs it scales or shifts, as a pass has shown."""
        return {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        """A pass at x, in which it may be seen what follows what."""
        yield

    def load(self, followers: Mapping[str, str]) -> None:
        """Take up what an earlier sitting saw."""

    def check(self, psi: Score) -> None:
        """Look whether a score sees the neurons.

        Raises:
            SteppeError: it does not.
        """
        raise NotImplementedError

    def check_gathered(self, psi: Score, need: str, rank_local: bool) -> None:
        """Look whether a statistic of a score is there when radii are found.

        Raises:
            SteppeError: it is not.
        """
        if rank_local:
            raise SteppeError(
                f"score {psi.name} of neurons needs the {need.replace('_', ' ')} over all ranks",
                got="sync='local'",
                consequence="ranks share no gradient before they perturb",
                way_out="StepOptions(sync='global'), or psi l2",
            )
        gathers = STATISTICS[need].gathers
        layers = self.prunable.layers
        blind = [x.name for x in layers if not gathers(x, home_of(self.model, x.name))]
        if blind:
            raise SteppeError(
                f"score {psi.name} of neurons needs the {need.replace('_', ' ')} of every layer",
                got=f"{', '.join(blind[:3])}, where it cannot be gathered",
                way_out=f"psi l2, fisher or taylor{self._besides(blind)}",
            )

    def _besides(self, blind: Sequence[str]) -> str:
        """What else can be done about layers that a score does not see."""
        return f", or exclude={blind[:3]}"

    def now(self, psi: Score) -> Neurons:
        """The neurons as they are at this step.

        Args:
            psi: their score.
        """
        weights, psi = self.prunable.weights, self.forms[psi]
        scores = joined([s.abs() for s in self._scores(psi, weights)])
        none = scores.new_zeros(0, dtype=torch.bool)  # where only the output layer is not excluded
        alive = torch.cat([none, *[a.to(scores.device) for a in self._alive(weights)]])
        return Neurons(members=self._numbers(), sizes=self.sizes, scores=scores, alive=alive)

    def _numbers(self) -> Tensors:
        """`Neurons.members`, beside the parameters."""
        there = dict(self.model.named_parameters())
        if self._members is None or not self._members.keys() <= there.keys():
            self._members = self._number()  # parts that were folded are no parameters any more
        members = self._members
        for name, numbers in members.items():
            if numbers.device != there[name].device:
                members[name] = numbers.to(there[name].device)
        return members

    def _number(self) -> Tensors:
        raise NotImplementedError

    def _scores(self, psi: Score, weights: Tensors) -> list[Tensor]:
        raise NotImplementedError

    def _alive(self, weights: Tensors) -> list[Tensor]:
        raise NotImplementedError


class GroupNeurons(RunNeurons):
    """Coupled channels: one neuron for each unit of a group, in every tensor that computes it."""

    def __init__(self, model: nn.Module, prunable: PrunableWeights, selector: Selector) -> None:
        super().__init__(model, prunable, selector)
        self.groups: Sequence[Group] = prunable.groups
        self.sizes = tuple(group.units for group in self.groups)

    def check(self, psi: Score) -> None:
        blind = [g.name for g in self.groups if not any(map(psi.reads, g.slices))]
        if blind:
            raise SteppeError(
                f"score {psi.name} of neurons reads something of every group of channels",
                got=f"{', '.join(blind[:3])}, which have none of it",
                way_out="psi l2, or exclude these layers from channel_groups",
            )

    def _besides(self, blind: Sequence[str]) -> str:
        return ""  # the norms and biases of coupled channels cannot be left out

    def _number(self) -> Tensors:
        shapes = {name: tuple(p.shape) for name, p in self.model.named_parameters()}
        members: Tensors = {}
        begun = 0
        for group in self.groups:
            units = torch.arange(begun, begun + group.units)
            begun += group.units
            for s in group.slices:
                if s.role not in ROLES or s.name not in shapes:
                    continue
                shape = shapes[s.name]
                along = [n if d == s.dim else 1 for d, n in enumerate(shape)]
                numbers = torch.full((shape[s.dim],), -1)
                numbers[s.index.cpu().reshape(-1)] = units.repeat_interleave(s.index.shape[1])
                numbers = numbers.view(along)
                known = members.get(s.name, torch.tensor(-1))
                members[s.name] = torch.where(known < 0, numbers, known)
        return members

    def _scores(self, psi: Score, weights: Tensors) -> list[Tensor]:
        return list(self.selector.units(psi, weights).values())

    def _alive(self, weights: Tensors) -> list[Tensor]:
        return [g.members(weights).ne(0).any(1) for g in self.groups]


class LayerNeurons(RunNeurons):
    """The rows of single layers, each with its bias and the norm that takes the layer's outputs.

    Args:
        model, prunable, selector: as of `RunNeurons`.
        keeps_output: see `neurons_of`.
    """

    def __init__(
        self, model: nn.Module, prunable: PrunableWeights, selector: Selector, keeps_output: bool
    ) -> None:
        super().__init__(model, prunable, selector)
        last = output_layer(self.model) if keeps_output else None
        self.layers = [layer for layer in selector.layers.values() if layer.name != last]
        self.sizes = tuple(layer.rows for layer in self.layers)
        self._norms = FollowingNorms(self.model, self.layers)

    @property
    def followers(self) -> dict[str, str]:
        return self._norms.owners or {}

    @contextmanager
    def watching(self) -> Iterator[None]:
        with self._norms.watching():
            yield

    def load(self, followers: Mapping[str, str]) -> None:
        self._norms.owners, self._members = dict(followers) or None, None

    def check(self, psi: Score) -> None:
        if not psi.reads(OUTPUT):
            raise SteppeError(
                f"score {psi.name} of neurons looks at coupled channels",
                got="single layers",
                way_out="groups=steppe.channel_groups(model, x), or psi l2",
            )

    def _number(self) -> Tensors:
        there = dict(self.model.named_parameters())
        places = {id(p): name for name, p in there.items()}
        ends = zip(self.layers, accumulate(self.sizes), strict=True)
        first = {x.name: end - x.rows for x, end in ends}
        rows = {x.name: rows_of(x) + first[x.name] for x in self.layers}
        members: Tensors = {}
        for part, p in self.prunable.trained.items():  # the weight itself, or what it is made from
            name = part.partition(":")[0]
            if name in rows and tuple(p.shape) == self.selector.layers[name].shape:
                members[places[id(p)]] = rows[name]
        vectors = {beside(n, "bias"): n for n in rows} | self.followers
        for vector, name in vectors.items():
            numbers = first[name] + torch.arange(self.selector.layers[name].rows)
            if vector in there and tuple(there[vector].shape) == numbers.shape:
                members[vector] = numbers
        return members

    def _scores(self, psi: Score, weights: Tensors) -> list[Tensor]:
        saliencies = [
            layer.flat(self.selector.saliency(psi, layer.name, weights[layer.name]))
            for layer in self.layers
        ]
        return [psi.reduce(s.unsqueeze(1)).squeeze(1) for s in saliencies]

    def _alive(self, weights: Tensors) -> list[Tensor]:
        return [layer.flat(weights[layer.name]).ne(0).any(1) for layer in self.layers]


def rows_of(layer: Layer) -> Tensor:
    """Which of a layer's outputs each entry of its weight computes; broadcasts over the weight.

    Example:
        >>> rows_of(Layer("deconv.weight", (5, 2, 3, 3), transposed=True)).tolist()
        [[[[0]], [[1]]]]
    """
    inputs = int(layer.stacked) + int(not layer.transposed)
    outputs = range(inputs) if not layer.transposed else (*range(inputs), inputs + 1)
    shape = [n if d in outputs else 1 for d, n in enumerate(layer.shape)]
    shape[inputs] = layer.groups
    thin = replace(layer, shape=tuple(shape))
    numbers = thin.unflat(torch.arange(layer.rows)[:, None])
    return numbers.repeat_interleave(layer.inputs, inputs) if layer.groups > 1 else numbers
