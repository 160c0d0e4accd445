"""From weights to masks where channels of several layers live and die together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from steppe.core.cost import Cost, Units
from steppe.core.cost_target import fill, meet_cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group, masks_of, require_fit
from steppe.core.layer import Layer
from steppe.core.mask import apply_masks
from steppe.core.protocols import (
    CandidateEvaluator,
    ChannelBudget,
    Score,
    SearchBudget,
    Tensors,
)
from steppe.core.statistic import Statistic
from steppe.engine.ranks import number_of_first
from steppe.engine.step.mean_shift import MeanShift
from steppe.engine.step.selector import Selector
from steppe.method import Method


class ChannelSelector(Selector):
    """The projection's support over coupled channels: whole units, in every tensor they lie in.

    Sparsity is the share of the cost that goes: ``cost.total(kept) <= (1 - s) cost.total(all)``.

    Args:
        method: its score and budget are used; its structure must be ``channel``.
        layers: the tensors that the units lie in.
        statistics: what the score needs to know, by name.
        groups: the coupled channels.
        cost: what sparsity counts; the number of channels if none is given.
        evaluate_candidate: how good the network is with channels kept; for budgets that try (see
            `steppe.engine.step.candidate_evaluation.candidate_evaluator`). Of several processes,
            who all call it, the first one's answer counts.
        mean_shift: where the means of channels that go are put, if anywhere.

    Raises:
        SteppeError: the structure is another one; the target leaves too little; the budget tries
            and cannot.
    """

    def __init__(
        self,
        method: Method,
        layers: Sequence[Layer],
        statistics: dict[str, Statistic],
        groups: Sequence[Group],
        cost: Cost | None = None,
        *,
        evaluate_candidate: CandidateEvaluator | None = None,
        mean_shift: MeanShift | None = None,
    ) -> None:
        if not method.structure.whole_outputs:
            raise SteppeError(
                "coupled channels are pruned with structure channel",
                got=f"structure {method.structure.name}",
                way_out="structure='channel', or leave groups out",
            )
        budget = method.budget
        if not isinstance(budget, ChannelBudget):
            raise SteppeError(
                f"budget {budget.name} chooses among the units of single layers",
                got=f"{len(groups)} groups of coupled channels",
                way_out="budget pooled, uniform, lamp or latency_knapsack; or leave groups out",
            )
        if isinstance(budget, SearchBudget) and evaluate_candidate is None:
            raise SteppeError(
                f"budget {budget.name} tries channels out and needs an evaluation",
                got="none",
                way_out="options=StepOptions(evaluate_candidate=candidate_evaluator(...)), "
                "or another budget",
            )
        self.method, self.statistics, self.budget = method, statistics, budget
        self.evaluate_candidate, self.mean_shift = evaluate_candidate, mean_shift
        self._fixed: Tensors = {}
        self._places: dict[str, torch.device] = {}
        self.groups = list(groups)
        self.layers = {layer.name: layer for layer in layers}
        self.cost = cost if cost is not None else Units(self.groups)
        self.whole = self.cost.total({})
        self.num_units = sum(group.units for group in self.groups)
        if budget.meets:
            # a target that cannot be met fails before the training, not after it
            even = {g.name: torch.arange(g.units, dtype=torch.float64) + 1 for g in self.groups}
            tried = meet_cost if isinstance(budget, SearchBudget) else budget.within_cost
            tried(even, self.groups, self.cost, self._allowed(method.sparsity))

    @torch.no_grad()
    def __call__(self, weights: Tensors, sparsity: float, within: Tensors | None = None) -> Tensors:
        """Masks (True = kept) of all tensors that a unit lies in.

        Args:
            weights: name -> tensor of the model's shape.
            sparsity: the share of the cost that goes.
            within: earlier masks; units that they zero stay zero. Where they save enough they are
                the answer: nothing is searched twice.
        """
        alive = {} if within is None else self.alive(within)
        if within is not None and self._enough(alive, sparsity):
            return masks_of(self.groups, alive, weights)
        units = self.units(self.method.score, weights)
        if within is not None:
            units = {
                name: torch.where(alive[name], u.abs() + torch.finfo(u.dtype).tiny, 0.0)
                for name, u in units.items()
            }
        return masks_of(self.groups, self._within(units, sparsity), weights)

    def units(self, score: Score, weights: Tensors) -> Tensors:
        """Group -> what a score says of its units, ``[units]``.

        Args:
            score: any whose statistics are gathered.
            weights: name -> tensor of the model's shape.
        """
        saliencies = {
            s.name: self.saliency(score, s.name, weights[s.name])
            for group in self.groups
            for s in group.slices
            if s.name in weights and score.reads(s)
        }
        return {g.name: score.reduce(score.members(g, saliencies)) for g in self.groups}

    def _allowed(self, sparsity: float) -> float:
        # a hair of slack, so that a share computed as 0.39999 of 10 units still allows four
        return (1.0 - sparsity) * self.whole * (1.0 + 1e-9)

    def _enough(self, alive: Tensors, sparsity: float) -> bool:
        """Whether no more units have to go than those that are gone."""
        kept = {name: int(a.sum()) for name, a in alive.items()}
        # where the scores decide how many go, they decide once
        decided = not self.budget.meets and any(kept[g.name] < g.units for g in self.groups)
        return decided or self.cost.total(kept) <= self._allowed(sparsity)

    def _within(self, units: Tensors, sparsity: float) -> Tensors:
        budget, allowed = self.budget, self._allowed(sparsity)
        if isinstance(budget, SearchBudget):
            kept = self._searched(budget, units, allowed)
        else:
            kept = budget.within_cost(units, self.groups, self.cost, allowed)
        if budget.meets and sparsity == self.method.sparsity:
            kept = fill(units, self.groups, self.cost, allowed, kept)
            self._check(kept, allowed)
        return kept

    def _searched(self, budget: SearchBudget, units: Tensors, allowed: float) -> Tensors:
        if self.whole <= allowed:  # nothing has to go, so there is nothing to try
            return {name: torch.ones_like(u, dtype=torch.bool) for name, u in units.items()}
        evaluate = self.evaluate_candidate
        assert evaluate is not None

        def agreed(kept: Tensors) -> float:
            """Each process evaluates; what differs in a bit must not choose other channels."""
            return number_of_first(evaluate(kept))

        return budget.search(units, self.groups, self.cost, allowed, agreed)

    def _check(self, kept: Tensors, allowed: float) -> None:
        """The target is met as nearly as whole channels can, or what blocks it is said."""
        widths = {name: int(k.sum()) for name, k in kept.items()}
        left = self.cost.total(widths)
        more = [widths | {g.name: widths[g.name] + 1} for g in self.groups]
        if left >= (1.0 - self.cost.tolerance) * allowed or all(
            self.cost.total(w) > allowed for w in more
        ):
            return
        wide = max(self.groups, key=lambda g: g.multiple)
        raise SteppeError(
            f"a target must be met within {self.cost.tolerance:.0%}",
            got=f"{left:,.6g} {self.cost.unit} where {allowed:,.6g} are allowed",
            consequence=f"too much goes at once: {wide.multiple} channels of {wide.name}",
            way_out="another sparsity, or a smaller round_to",
        )

    @torch.no_grad()
    def shift(self, weights: Tensors, masks: Tensors, beside: Tensors) -> None:
        """As of `steppe.core.step_context.Projection`."""
        assert self.mean_shift is not None
        self.mean_shift.take_over(weights, masks, beside)
        apply_masks(weights, masks)

    def beside(self) -> Tensors:
        """`StepContext.beside`: where the means go."""
        return {} if self.mean_shift is None else self.mean_shift.beside()

    def cut(self, masks: Tensors) -> Tensors:
        """What reads the units, the units themselves left open; of those that none reads, all."""
        alive = self.alive(masks)
        readers = [
            replace(g, slices=tuple(s for s in g.slices if s.role == "input") or g.slices)
            for g in self.groups
        ]
        open_ = {name: torch.ones_like(m) for name, m in masks.items()}
        return open_ | masks_of(readers, alive, masks)

    def fixed(self, weights: Tensors) -> Tensors:
        """`StepContext.fixed`: what would stay if every unit went."""
        places = {name: w.device for name, w in weights.items()}
        if self._places != places:
            none = {g.name: torch.zeros(g.units, dtype=torch.bool) for g in self.groups}
            left = masks_of(self.groups, none, weights)
            self._places, self._fixed = places, {n: m for n, m in left.items() if bool(m.any())}
        return self._fixed

    def alive(self, masks: Tensors) -> Tensors:
        """Group name -> the units that masks keep."""
        return {g.name: g.members(masks, ("output",)).any(1) for g in self.groups}

    def reached(self, masks: Tensors) -> float:
        """The share of the cost that masks save."""
        kept = {name: int(alive.sum()) for name, alive in self.alive(masks).items()}
        return 1.0 - self.cost.total(kept) / self.whole

    def kept(self, masks: Tensors) -> int:
        """How many units masks keep."""
        return sum(int(alive.sum()) for alive in self.alive(masks).values())


def not_empty(groups: Sequence[Group]) -> None:
    """Refuse the empty list of a model whose channels must all stay; ``()`` means no coupling.

    Raises:
        SteppeError: it is an empty list.
    """
    if isinstance(groups, list) and not groups:
        raise SteppeError(
            "coupled channels are pruned where some of them can go",
            got="groups=[]: every channel of this model must stay",
            consequence="without groups, channels of single layers would be made zero, which "
            "remove() cannot cut out",
            way_out="leave groups out to prune single layers, or see the warning of "
            "steppe.channel_groups for what stays and why",
        )


def coupled(
    model: nn.Module, groups: Sequence[Group]
) -> tuple[list[Layer], dict[str, nn.Parameter]]:
    """Every parameter that a unit lies in, in name order.

    Raises:
        SteppeError: the groups are another model's.
    """
    named = dict(model.named_parameters())
    names = sorted({s.name for g in groups for s in g.slices if s.role != "buffer"})
    own = dict([*model.named_parameters(), *model.named_buffers()])
    require_fit(groups, own)  # before the training, not after it
    layers = [Layer(name, tuple(named[name].shape)) for name in names]
    return layers, {name: named[name] for name in names}
